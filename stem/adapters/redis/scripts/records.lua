-- Included: reading, ending and forgetting what a record stands for.
-- A length of time in ms, at most ten years, as options and settings have it; `otherwise` for what is none.
local function length_of(value, otherwise)
  local n = num(value)
  return n >= 1 and n <= 315360000000 and n or otherwise
end

-- Whether a stored time is less than `ms` ago. One that lies ahead is long ago: the clock was set back since.
local function within(time, ms)
  local since = now - num(time)
  return since >= 0 and since < ms
end

-- The queue that a record names; nil for what is no name, because a key must never be made of it.
local names = {}
local function queue_of(value)
  if not value then return nil end
  if names[value] == nil then names[value] = #value <= 64 and value:find('^[%w_.%-]+$') ~= nil end
  return names[value] and value or nil
end

-- The time of enqueue of a record with these fields.
local function enqueued(at, entry) return at or entry and entry:match('^%d+') end
-- Called before a record gets another entry, or none: the time that the old one told stays.
local function keep_time(key, at, entry)
  local time = not at and enqueued(at, entry)
  if time then redis.call('HSET', key, 'at', time) end
end

-- Takes entries out of a stream and its group. An ill-formed entry id fails a whole command: then one by one.
local function drop_entries(stream, ...)
  local acked = redis.pcall('XACK', stream, 'stem', ...)
  if type(acked) ~= 'table' then return redis.call('XDEL', stream, ...) end
  for _, entry in ipairs({ ... }) do
    redis.pcall('XACK', stream, 'stem', entry)
    redis.pcall('XDEL', stream, entry)
  end
end

-- Forgets a consumer. One with pending entries stays: deleting it would make them undeliverable.
local function forget_consumer(stream, worker)
  local pending = redis.pcall('XPENDING', stream, 'stem', '-', '+', 1, worker)
  if not pending.err and #pending == 0 then redis.pcall('XGROUP', 'DELCONSUMER', stream, 'stem', worker) end
end

-- One line of a task's timeline. Kept only for what the record's own times do not tell: a clean run writes none.
local function line(at, event, worker, attempt, detail)
  return (at or 0) .. '\t' .. event .. '\t' .. (worker or '') .. '\t' .. (attempt or 0) .. '\t' .. (detail or '') .. '\n'
end
local function add_timeline(key, text)
  local old = redis.call('HGET', key, 'tl') or ''
  if #old > 8000 then old = old:sub((old:find('\n', #old - 6000, true) or 0) + 1) end
  redis.call('HSET', key, 'tl', old .. text)
end

local function tell_waiters(waiters, id)
  if waiters and waiters ~= '' then
    for client in waiters:gmatch('[^,]+') do redis.call('PUBLISH', C .. 'done:' .. client, id) end
  end
end

local function release_unique(task, unique, id)
  if unique and unique ~= '' then
    local key = unique_key(task, unique)
    if redis.call('GET', key) == id then redis.call('DEL', key) end
  end
end

-- Buries a task. The oldest dead letters leave first, by age and by count; their records go with them. The newest stands
-- behind all others, whatever the clock says: it is never the one that leaves.
local function bury(queue, id, cap, keep)
  local dead = queue_key(queue, 'dead')
  local last = redis.call('ZRANGE', dead, -1, -1, 'WITHSCORES')
  local latest = last[1] ~= id and tonumber(last[2] or '') or 0
  redis.call('ZADD', dead, latest >= now and latest + 1 or now, id)
  local gone = redis.call('ZRANGE', dead, '-inf', now - keep, 'BYSCORE', 'LIMIT', 0, 100)
  local over = redis.call('ZCARD', dead) - #gone - cap
  if over > 0 then gone = redis.call('ZRANGE', dead, 0, math.min(#gone + over, 500) - 1) end
  for _, old in ipairs(gone) do
    if old ~= id then
      redis.call('ZREM', dead, old)
      redis.call('DEL', task_key(old))
    end
  end
end
