-- Shared by every script (it is put in front of each). KEYS[1]: the namespace's prefix "{ns}:". ARGV[1]: the prefix of
-- its channels "{ns}@<db>:". All keys of a namespace share one hash tag, so what a script touches is on one shard.
--
-- The record, a hash at task:<id>:
--   n name  q queue  p priority  b body  sg signature  st state  a attempt  c crashes  k token  sk so settling tokens and
--   outcome  o owner  e stream entry  du due  l lease length asked for, lg granted  x expiry  er last error  re result
--   w waiting clients
--   u unique key  rv revoke asked for  gb g1 give-backs and the first one's time  at s1 f1 times of enqueue, start, end
--   tl timeline lines  pg progress  ds reason of death  tb tombstone of an id revoked before it came
local P, C = KEYS[1], ARGV[1]

local function clock()
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end
local now = clock()
-- A number that goes into a command is printed as a float, which takes as long as a field does to be stored: what is
-- written often is made text once.
local function digits(number) return string.format('%d', number) end
local NOW = digits(now)

-- Fields of a record may be missing (false) or spoilt, and one spoilt record must not stop a whole queue: so what reads
-- them here raises for nothing.

-- A whole number; 0 for what is missing, no number, or none that fits (also "nan" and "inf", which Lua reads).
local function num(value)
  local n = tonumber(value or '')
  return n and n > -9e15 and n < 9e15 and math.floor(n) or 0
end
-- A length of time in ms, at most a year; `otherwise` for what is none.
local function length_of(value, otherwise)
  local n = num(value)
  return n >= 1 and n <= 31622400000 and n or otherwise
end

-- The queue that a record names; nil for what is no name, because a key must never be made of it.
local names = {}
local function queue_of(value)
  if not value then return nil end
  if names[value] == nil then names[value] = #value <= 64 and value:find('^[%w_.%-]+$') ~= nil end
  return names[value] and value or nil
end

-- Written out: every call of a script makes this table, and to fill it in a loop took a sixth of a single enqueue.
local PRIORITY = {
  [0] = 0, 1, 2, 3, 4, 5, 6, 7, 8, 9,
  ['0'] = 0, ['1'] = 1, ['2'] = 2, ['3'] = 3, ['4'] = 4, ['5'] = 5, ['6'] = 6, ['7'] = 7, ['8'] = 8, ['9'] = 9,
}
local function task_key(id) return P .. 'task:' .. id end
local function queue_key(queue, part) return P .. 'q:' .. (queue or '') .. ':' .. part end
local streams = {}
local function stream_key(queue, priority)
  queue, priority = queue or '', PRIORITY[priority] or 0
  local of = streams[queue]
  if not of then
    of = {}
    streams[queue] = of
  end
  local key = of[priority]
  if not key then
    key = P .. 'q:' .. queue .. ':p' .. priority
    of[priority] = key
  end
  return key
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

local FINAL = { succeeded = true, failed = true, revoked = true, expired = true }

-- unpack() is limited by Lua's C stack; ids travel to variadic commands in chunks well below it.
local function in_chunks(items, size, call)
  for first = 1, #items, size do
    call(unpack(items, first, math.min(first + size - 1, #items)))
  end
end

-- Wakes one worker that is idle on this queue. One token is enough: whoever takes it and leaves work behind rings again.
local function ring(queue)
  local bell = queue_key(queue, 'bell')
  if redis.call('LLEN', bell) == 0 then redis.call('RPUSH', bell, '1') end
end

local known = {}
-- Makes sure that the stream of a priority has its group, created at 0 so that no earlier entry is passed over.
local function open_stream(queue, priority)
  local stream = stream_key(queue, priority)
  if not known[stream] then
    known[stream] = true
    if redis.call('HSETNX', queue_key(queue, 'meta'), 'p' .. (PRIORITY[priority] or 0), '1') == 1 then
      redis.call('SADD', P .. 'queues', queue)
      redis.pcall('XGROUP', 'CREATE', stream, 'stem', '0', 'MKSTREAM')
    end
  end
  return stream
end

-- Makes a task ready: a new entry at the end of its priority's stream.
local function make_ready(id, queue, priority)
  return redis.call('XADD', open_stream(queue, priority), '*', 'i', id)
end

-- Counts gather here and are written once a script: stats:<minute>, field <queue>|<task>|<what>.
local counted, last, last_queue, last_task = {}, nil, nil, nil
local function count(queue, task, what, by)
  -- Most batches are of one task: its counts are found without making a text for each of them.
  if not last or queue ~= last_queue or task ~= last_task then
    local name = (queue or '') .. '|' .. (task or '') .. '|'
    last, last_queue, last_task = counted[name] or {}, queue, task
    counted[name] = last
  end
  last[what] = (last[what] or 0) + (by or 1)
end
local function write_counts()
  if not last then return end
  local key = P .. 'stats:' .. math.floor(now / 60000)
  -- 200 names with about ten fields each; what comes after them is counted together, so that memory stays bounded.
  local full = redis.call('HLEN', key) > 2000
  for name, counts in pairs(counted) do
    for what, by in pairs(counts) do
      local field = name .. what
      if full and redis.call('HEXISTS', key, field) == 0 then
        field = (name:match('^([^|]*)') or '') .. '|~other|' .. what
      end
      redis.pcall('HINCRBY', key, field, by)
    end
  end
  redis.call('EXPIRE', key, 10860)
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
    local key = P .. 'unique:' .. (task or '') .. ':' .. unique
    if redis.call('GET', key) == id then redis.call('DEL', key) end
  end
end

local finals = {}
local function add_history(id, state, task, queue, worker, attempt, enqueued, started, error_type)
  finals[#finals + 1] = id .. '\t' .. state .. '\t' .. (task or '') .. '\t' .. (queue or '') .. '\t' .. (worker or '')
    .. '\t' .. (attempt or '0') .. '\t' .. (enqueued or '0') .. '\t' .. (started or '0') .. '\t' .. NOW .. '\t'
    .. (error_type or '')
end
local function write_history()
  if #finals == 0 then return end
  in_chunks(finals, 500, function(...) redis.call('LPUSH', P .. 'history', ...) end)
  redis.call('LTRIM', P .. 'history', 0, 9999)
end

-- Writes a row of the audit and returns its name; conclude.lua adds the outcome.
local function add_audit(id, verb, actor, reason, said, count_of, kind, option, epoch, did)
  return redis.call('XADD', P .. 'audit', 'MAXLEN', '~', 10000, '*', 'id', id, 'type', verb, 'actor', actor, 'reason',
    reason, 'targets', said, 'epoch', epoch, 'n', count_of, 'kind', kind, 'option', option, 'did', did)
end

-- Buries a task. The oldest dead letters leave first, by age and by count; their records go with them.
local function bury(queue, id, cap, keep)
  local dead = queue_key(queue, 'dead')
  redis.call('ZADD', dead, now, id)
  local gone = redis.call('ZRANGE', dead, '-inf', now - keep, 'BYSCORE', 'LIMIT', 0, 100)
  local over = redis.call('ZCARD', dead) - #gone - cap
  if over > 0 then gone = redis.call('ZRANGE', dead, 0, math.min(#gone + over, 500) - 1) end
  for _, old in ipairs(gone) do
    redis.call('ZREM', dead, old)
    redis.call('DEL', task_key(old))
  end
end

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
  add_history(id, state, task, queue, r[11], r[8], r[9], r[10], '')
end

-- What is paused now: field "<kind>:<target>" -> until (0: without end). One whose time has come counts as resumed.
local function read_pauses()
  local flat = redis.call('HGETALL', P .. 'desired:pause')
  local pauses, next_end = {}, nil
  for i = 1, #flat, 2 do
    local until_ms = tonumber(flat[i + 1]:match('^%d+\t(%d+)')) or 0
    if until_ms == 0 or until_ms > now then
      pauses[flat[i]] = until_ms
      if until_ms > 0 and (not next_end or until_ms < next_end) then next_end = until_ms end
    else
      redis.call('HDEL', P .. 'desired:pause', flat[i])
    end
  end
  return pauses, next_end
end
