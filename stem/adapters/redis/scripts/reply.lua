#!lua flags=allow-oom
-- Append a reply; the list gets its expiry in the same step, so that no reply outlives its request for long.
-- ARGV from 2: command id, reply, keep for.
local key = P .. 'reply:' .. ARGV[2]
redis.call('RPUSH', key, ARGV[3])
redis.call('LTRIM', key, -10000, -1)
redis.call('PEXPIRE', key, ARGV[4])
return 1
