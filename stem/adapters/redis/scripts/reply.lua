#!lua flags=allow-oom
-- Append a reply; the stream gets its expiry in the same step, so that no reply outlives its request for long.
-- ARGV from 2: command id, reply, keep for.
local key = P .. 'reply:' .. ARGV[2]
redis.call('XADD', key, 'MAXLEN', '~', 10000, '*', 'r', ARGV[3])
redis.call('PEXPIRE', key, ARGV[4])
return 1
