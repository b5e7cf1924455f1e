#!lua flags=allow-oom
-- End one worker's wait for bells. ARGV from 2: reader. A token that it does not take any more is gone in 10 seconds.
local key = P .. 'wake:' .. ARGV[2]
redis.call('DEL', key)
redis.call('RPUSH', key, '1')
redis.call('PEXPIRE', key, 10000)
return 1
