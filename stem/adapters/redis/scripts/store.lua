#!lua flags=allow-oom
-- Keep the copy of a final status: the higher token wins, for equal tokens the first. ARGV from 2: id, token, status, ttl.
local key = P .. 'result:' .. ARGV[2]
local before = redis.call('HGET', key, 'k')
if before and num(before) >= tonumber(ARGV[3]) then return 0 end
redis.call('HSET', key, 'k', ARGV[3], 's', ARGV[4])
redis.call('PEXPIRE', key, ARGV[5])
return 1
