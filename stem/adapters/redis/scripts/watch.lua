#!lua flags=allow-oom
-- Hold (for > 0) or give back (for 0) a watch lease. ARGV from 2: watcher, for. The first one wakes the workers.
local key = P .. 'watch'
redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
if ARGV[3] == '0' then
  redis.call('ZREM', key, ARGV[2])
else
  local others = redis.call('ZCARD', key)
  redis.call('ZADD', key, now + tonumber(ARGV[3]), ARGV[2])
  redis.call('PEXPIRE', key, 3600000)
  if others == 0 then redis.call('PUBLISH', C .. 'control', 'watch') end
end
return 1
