#!lua flags=allow-oom
-- Append a batch of events and drop those older than a minute. Nothing is written when memory is full or nobody watches.
if redis.call('ZCOUNT', P .. 'watch', now, '+inf') == 0 then return 0 end
local key = P .. 'events'
redis.pcall('XADD', key, 'MINID', '~', (now - 60000) .. '-0', '*', 'b', ARGV[2])
redis.call('PEXPIRE', key, 120000)
return 1
