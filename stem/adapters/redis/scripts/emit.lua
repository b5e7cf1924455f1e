#!lua
-- Append a batch of events and drop those older than a minute. Refused at maxmemory: whoever watches goes without, so
-- that workers can end what they have. Nothing is written when nobody watches.
if redis.call('ZCOUNT', P .. 'watch', now, '+inf') == 0 then return 0 end
local key = P .. 'events'
redis.pcall('XADD', key, 'MINID', '~', (now - 60000) .. '-0', '*', 'b', ARGV[2])
redis.call('PEXPIRE', key, 120000)
return 1
