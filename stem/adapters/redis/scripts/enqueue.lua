#!lua
-- Take a batch of new tasks. Refused at maxmemory: that is the back-pressure.
-- ARGV from 2: queue limit (0: none), ttl of a tombstoned task, then per task twelve: id, name, queue, body, signature,
--   priority, delay, eta, expires in, expires at, lease, unique key; '' for unset.
-- Returns per task two: id, outcome. Atomic because the id, the unique key and the limit are checked for all before any
-- is written, and because a task must never exist without its place in a queue.
local limit, ttl, find = tonumber(ARGV[2]), tonumber(ARGV[3]), string.find
local out, lengths, taken, ready = {}, {}, {}, {}
local NEW = {}

-- Producers check all this before they send it. A task under an id or in a queue that is none could be neither settled nor
-- found: what reaches us like that was changed on its way, or sent by something else.
if not limit or not ttl or (#ARGV - 3) % 12 ~= 0 then return redis.error_reply('ILLFORMED a batch of tasks') end
local good_task, good_queue  -- the last ones: most batches are of one
for i = 4, #ARGV, 12 do
  local id, task, queue, priority, unique = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 5], ARGV[i + 11]
  local good = #id <= 64 and find(id, '^[%w_.%-]+$') and #priority == 1 and find(priority, '^%d$')
    and (task == good_task or #task <= 200 and find(task, '^[%w_.:/%-]+$'))
    and (queue == good_queue or #queue <= 64 and find(queue, '^[%w_.%-]+$'))
    and (unique == '' or #unique <= 200 and find(unique, '^[%w_.:/%-]+$'))
  for at = i + 6, i + 10 do good = good and (ARGV[at] == '' or find(ARGV[at], '^%-?%d+$')) end
  if not good then return redis.error_reply('ILLFORMED the names or numbers of a task') end
  good_task, good_queue = task, queue
end

local function add(fields, name, value)
  fields[#fields + 1] = name
  fields[#fields + 1] = value
end

local function length(queue)
  if not lengths[queue] then
    local flags = redis.call('HKEYS', queue_key(queue, 'meta'))
    local total = redis.call('ZCARD', queue_key(queue, 'delayed')) + redis.call('ZCARD', queue_key(queue, 'retry'))
      + redis.call('ZCARD', queue_key(queue, 'held')) - redis.call('ZCARD', queue_key(queue, 'lease'))
    for _, flag in ipairs(flags) do
      local priority = flag:match('^p(%d)$')
      if priority then total = total + redis.call('XLEN', stream_key(queue, priority)) end
    end
    lengths[queue] = total
  end
  return lengths[queue]
end

for i = 4, #ARGV, 12 do
  local id, task, queue, body, signature, priority = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4], ARGV[i + 5]
  local unique, key = ARGV[i + 11], task_key(ARGV[i])
  local outcome, holder, seen = nil, id, NEW
  if redis.pcall('HGET', key, 'st') then seen = redis.pcall('HMGET', key, 'st', 'b', 'tb') end
  -- A key of another type under this id: taken by something that is not this task.
  if seen.err then seen = { 'unreadable', '' } end
  if seen[1] and not seen[3] then
    -- A purged one has no body to compare with any more: the id decides.
    outcome = (not seen[2] or seen[2] == body) and 'exists' or 'conflict'
  elseif not seen[1] and unique ~= '' then
    local other = redis.call('GET', P .. 'unique:' .. task .. ':' .. unique)
    if other then
      local state = redis.pcall('HGET', task_key(other), 'st')
      if type(state) == 'string' and not FINAL[state] then outcome, holder = 'duplicate', other end
    end
  end
  if not outcome and not seen[1] and limit > 0 and length(queue) >= limit then outcome = 'full' end
  if not outcome then
    local extra = {}
    if signature ~= '' then add(extra, 'sg', signature) end
    if ARGV[i + 10] ~= '' then add(extra, 'l', ARGV[i + 10]) end
    if ARGV[i + 8] ~= '' then
      add(extra, 'x', now + tonumber(ARGV[i + 8]))
    elseif ARGV[i + 9] ~= '' then
      add(extra, 'x', ARGV[i + 9])
    end
    local due = ARGV[i + 6] ~= '' and now + tonumber(ARGV[i + 6]) or ARGV[i + 7] ~= '' and tonumber(ARGV[i + 7]) or now
    local field, value
    if seen[3] then
      outcome, field, value = 'revoked', 'f1', NOW
    else
      if unique ~= '' then
        add(extra, 'u', unique)
        redis.call('SET', P .. 'unique:' .. task .. ':' .. unique, id)
      end
      if due > now then
        outcome, field, value = 'scheduled', 'du', due
      else
        outcome, field, value = 'queued', 'e', make_ready(id, queue, priority)
      end
    end
    if priority ~= '0' then add(extra, 'p', priority) end
    redis.call('HSET', key, 'st', outcome, field, value, 'n', task, 'q', queue, 'b', body, 'at', NOW, unpack(extra))
    if outcome == 'revoked' then
      -- Before it came: it is final at once, and never stands in a queue.
      redis.call('HDEL', key, 'tb')
      redis.call('PEXPIRE', key, ttl)
      add_history(id, 'revoked', task, queue, '', '0', now, '0', '')
      count(queue, task, 'revoked')
    else
      if outcome == 'queued' then
        ready[queue] = true
      else
        open_stream(queue, priority)
        local delayed = queue_key(queue, 'delayed')
        redis.call('ZADD', delayed, due, id)
        -- An idle worker sleeps until the earliest due time it knew: tell one of a new earliest.
        if redis.call('ZRANGE', delayed, 0, 0)[1] == id then ring(queue) end
      end
      lengths[queue] = lengths[queue] and lengths[queue] + 1
      taken[queue] = (taken[queue] or 0) + 1
      count(queue, task, 'enqueued')
    end
  end
  out[#out + 1] = holder
  out[#out + 1] = outcome
end
for queue, many in pairs(taken) do redis.pcall('HINCRBY', queue_key(queue, 'meta'), 'in', many) end
for queue in pairs(ready) do ring(queue) end
write_history()
write_counts()
return out
