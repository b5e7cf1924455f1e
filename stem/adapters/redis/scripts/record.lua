#!lua flags=allow-oom
-- Write the audit row of what is done in several steps, before the first. ARGV from 2: id, verb, actor, reason, targets as
-- text, their number, kind, option. Returns the row's name. Once per id: sent again it answers the same.
local request = P .. 'request:' .. ARGV[2]
local before = redis.call('HGET', request, 'audit')
if before then return before end
local row = add_audit(ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[9], 0, '')
redis.call('HSET', request, 'audit', row)
redis.call('PEXPIRE', request, 600000)
return row
