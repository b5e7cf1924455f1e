#!lua flags=allow-oom
-- Put tasks that wait but stand in no queue back into theirs, and free running ones without a lease or an entry.
-- ARGV from 2: ids. Returns how many were repaired. Nothing here happens in normal running; it heals lost keys.
local repaired = 0
for i = 2, #ARGV do
  local id = ARGV[i]
  local key = task_key(id)
  local r = redis.pcall('HMGET', key, 'st', 'q', 'p', 'e', 'du', 'n', 'b', 'at')
  local state, queue = r[1], queue_of(r[2])
  if not r.err and state and queue and r[7] then
    local function stands_in(part) return redis.call('ZSCORE', queue_key(queue, part), id) end
    local function in_stream()
      local entry = r[4]
      if not entry or entry == '' then return false end
      local found = redis.pcall('XRANGE', stream_key(queue, r[3]), entry, entry)
      if found.err or not found[1] or found[1][2][2] ~= id then return false end
      if state ~= 'queued' then return true end
      -- Given to a consumer, and never started: a script was refused half way, and nobody would be given it again.
      local given = redis.pcall('XPENDING', stream_key(queue, r[3]), 'stem', entry, entry, 1)
      if given.err or not given[1] then return true end
      drop_entries(stream_key(queue, r[3]), entry)
      return false
    end
    local fixed = false
    if state == 'queued' and not in_stream() and not stands_in('held') then
      keep_time(key, r[8], r[4])
      redis.call('HSET', key, 'e', make_ready(id, queue, r[3]))
      fixed = true
    elseif state == 'running' and not stands_in('lease') then
      redis.call('ZADD', queue_key(queue, 'lease'), now, id)
      if not in_stream() then
        keep_time(key, r[8], r[4])
        redis.call('HSET', key, 'e', make_ready(id, queue, r[3]), 'st', 'queued', 'o', '')
      end
      fixed = true
    elseif (state == 'scheduled' and not stands_in('delayed')) or (state == 'retrying' and not stands_in('retry')) then
      redis.call('ZADD', queue_key(queue, state == 'scheduled' and 'delayed' or 'retry'), r[5] and num(r[5]) or now, id)
      redis.call('SADD', P .. 'queues', queue)
      fixed = true
    elseif state == 'failed' and not stands_in('dead') and redis.call('PTTL', key) == -1 then
      redis.call('ZADD', queue_key(queue, 'dead'), now, id)
      fixed = true
    end
    if fixed then
      repaired = repaired + 1
      add_timeline(key, line(now, 'reconciled', '', '0', state))
      redis.call('SADD', P .. 'queues', queue)
      ring(queue)
    end
  end
end
return repaired
