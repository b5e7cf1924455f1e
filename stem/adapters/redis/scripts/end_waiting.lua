-- Part of issue.lua and purge.lua.
-- The end of a task that waits somewhere (not of one that runs: settle does that).
local WAITING = { 'n', 'q', 'p', 'e', 'st', 'u', 'w', 'a', 'at', 's1', 'o', 'c' }
local function end_waiting(id, key, r, state, reason, ttl)
  local task, queue, entry = r[1], r[2], r[4]
  redis.call('HSET', key, 'st', state, 'f1', now, 'ds', reason)
  redis.call('PEXPIRE', key, ttl)
  if entry and entry ~= '' then drop_entries(stream_key(queue, r[3]), entry) end
  redis.call('ZREM', queue_key(queue, 'delayed'), id)
  redis.call('ZREM', queue_key(queue, 'retry'), id)
  redis.call('ZREM', queue_key(queue, 'held'), id)
  release_unique(task, r[6], id)
  tell_waiters(r[7], id)
  count(queue, task, state)
  add_history(id, state, task, queue, r[11], r[8], enqueued(r[9], entry), r[10], '')
end
