-- Included.
-- Writes a row of the audit and returns its name; conclude.lua adds the outcome.
local function add_audit(id, verb, actor, reason, said, count_of, kind, option, epoch, did)
  return redis.call('XADD', P .. 'audit', 'MAXLEN', '~', 10000, '*', 'id', id, 'type', verb, 'actor', actor, 'reason',
    reason, 'targets', said, 'epoch', epoch, 'n', count_of, 'kind', kind, 'option', option, 'did', did)
end
