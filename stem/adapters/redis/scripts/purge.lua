#!lua flags=allow-oom
-- Remove up to `limit` tasks of a queue. ARGV from 2: queue, 'waiting' or 'dead', limit, reason, then (for dead) ids to
-- choose, or none for the oldest. Returns how many went.
local queue, what, limit = ARGV[2], ARGV[3], tonumber(ARGV[4])
local gone = 0
if what == 'dead' then
  local dead = queue_key(queue, 'dead')
  local ids = {}
  for i = 6, #ARGV do ids[#ids + 1] = ARGV[i] end
  if #ids == 0 then ids = redis.call('ZRANGE', dead, 0, limit - 1) end
  for _, id in ipairs(ids) do
    if redis.call('ZREM', dead, id) == 1 then
      redis.pcall('PEXPIRE', task_key(id), 60000)
      gone = gone + 1
    end
  end
  return gone
end
local function finish(id)
  local key = task_key(id)
  local r = redis.pcall('HMGET', key, unpack(WAITING))
  if r[5] and not FINAL[r[5]] and r[5] ~= 'running' then
    add_timeline(key, line(now, 'purged', '', r[8] or '0', ARGV[5]))
    end_waiting(id, key, r, 'revoked', ARGV[5], 86400000)
    -- What became of it is remembered; its arguments are what takes the memory that is wanted back.
    redis.call('HDEL', key, 'b', 'sg')
    gone = gone + 1
    return true
  end
  return false
end
for _, part in ipairs({ 'delayed', 'retry', 'held' }) do
  local set = queue_key(queue, part)
  for _, id in ipairs(redis.call('ZRANGE', set, 0, limit - gone - 1)) do
    if not finish(id) then redis.call('ZREM', set, id) end
  end
  if gone >= limit then break end
end
for priority = 0, 9 do
  local stream = stream_key(queue, priority)
  if gone < limit and redis.call('EXISTS', stream) == 1 then
    local groups = redis.pcall('XINFO', 'GROUPS', stream)
    local last = '0-0'
    for _, group in ipairs(groups.err and {} or groups) do
      for i = 1, #group, 2 do
        if group[i] == 'last-delivered-id' then last = group[i + 1] end
      end
    end
    for _, entry in ipairs(redis.call('XRANGE', stream, '(' .. last, '+', 'COUNT', limit - gone)) do
      if not finish(entry[2][2]) then redis.call('XDEL', stream, entry[1]) end
    end
  end
end
write_history()
write_counts()
return gone
