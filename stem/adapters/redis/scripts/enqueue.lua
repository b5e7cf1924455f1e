#!lua
-- Take a batch of new tasks. Refused at maxmemory: that is the back-pressure.
-- ARGV from 2: queue limit (0: none), ttl of a tombstoned task, then per task: id, name, queue, body, priority, number of
--   what is set besides, and each of that as a letter and a value: s signature, d delay, t due at, x expires in, e expires
--   at, l lease, u unique key.
-- Returns per task two: id, outcome. Names and numbers are checked for all before any is written. The id, the unique key
-- and the limit are checked task by task, each after what was written for those before it. Atomic because nobody may come
-- between such a check and its write, and because a task must never exist without its place in a queue.
local limit, ttl, find = tonumber(ARGV[2]), tonumber(ARGV[3]), string.find
local out, lengths, taken, ready = {}, {}, {}, {}
local NEW = {}

-- Producers check all this before they send it. A task under an id or in a queue that is none could be neither settled nor
-- found: what reaches us like that was changed on its way, or sent by something else.
if not limit or not ttl then return redis.error_reply('ILLFORMED a batch of tasks') end
local good_task, good_queue  -- the last ones: most batches are of one
local i = 4
while i <= #ARGV do
  local id, task, queue, priority, besides = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 4], ARGV[i + 5]
  if not besides then return redis.error_reply('ILLFORMED a batch of tasks') end
  local good = #id <= 64 and find(id, '^[%w_.%-]+$') and #priority == 1 and find(priority, '^%d$')
    and (task == good_task or #task <= 200 and find(task, '^[%w_.:/%-]+$'))
    and (queue == good_queue or #queue <= 64 and find(queue, '^[%w_.%-]+$'))
    and #besides == 1 and find(besides, '^[0-7]$')
  i = i + 6
  for _ = 1, good and tonumber(besides) or 0 do
    local what, value = ARGV[i], ARGV[i + 1]
    good = good and value and (what == 's' or what == 'u' and #value <= 200 and find(value, '^[%w_.:/%-]+$')
      or #what == 1 and find('dtxel', what, 1, true) and find(value, '^%-?%d+$'))
    i = i + 2
  end
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

-- What a body asks for, whoever asks: without its lineage, which stands before a time of 0 where the id is the caller's.
local function asked(body)
  local fine, map = pcall(function() return cmsgpack.unpack(body) end)
  local root, parent = fine and type(map) == 'table' and map.root, fine and type(map) == 'table' and map.parent
  if type(root) ~= 'string' or type(parent) ~= 'string' or #root > 64 or #parent > 64 then return body end
  local function packed(id) return (#id < 32 and string.char(160 + #id) or string.char(217, #id)) .. id end
  local time = '\171produced_at\0'
  local tail = '\164root' .. packed(root) .. '\166parent' .. packed(parent) .. time
  if body:sub(-#tail) ~= tail then return body end
  return string.char(body:byte() - 2) .. body:sub(2, -#tail - 1) .. time
end

i = 4
while i <= #ARGV do
  local id, task, queue, body, priority, besides = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4], ARGV[i + 5]
  local set, key = NEW, task_key(id)
  i = i + 6
  if besides ~= '0' then
    set = {}
    for _ = 1, tonumber(besides) do
      set[ARGV[i]] = ARGV[i + 1]
      i = i + 2
    end
  end
  local outcome, holder, seen = nil, id, NEW
  if redis.pcall('HGET', key, 'st') then seen = redis.pcall('HMGET', key, 'st', 'b', 'tb') end
  -- A key of another type under this id: taken by something that is not this task.
  if seen.err then seen = { 'unreadable', '' } end
  if seen[1] and not seen[3] then
    -- A purged one has no body to compare with any more: the id decides.
    outcome = (not seen[2] or seen[2] == body or asked(seen[2]) == asked(body)) and 'exists' or 'conflict'
  elseif not seen[1] and set.u then
    local other = redis.call('GET', unique_key(task, set.u))
    if other then
      local r = redis.pcall('HMGET', task_key(other), 'st', 'x')
      -- One that waits past its expiry is as good as over, and never starts; one that runs holds it to its end.
      local over = r.err or not r[1] or FINAL[r[1]] or r[2] and r[1] ~= 'running' and num(r[2]) <= now
      if not over then outcome, holder = 'duplicate', other end
    end
  end
  if not outcome and not seen[1] and limit > 0 and length(queue) >= limit then outcome = 'full' end
  if not outcome then
    local extra = {}
    if set.s then add(extra, 'sg', set.s) end
    if set.l then add(extra, 'l', set.l) end
    if set.x or set.e then add(extra, 'x', set.x and now + tonumber(set.x) or set.e) end
    local due = set.d and now + tonumber(set.d) or set.t and tonumber(set.t) or now
    local field, value
    if seen[3] then
      outcome, field, value = 'revoked', 'f1', NOW
    else
      if set.u then
        add(extra, 'u', set.u)
        redis.call('SET', unique_key(task, set.u), id)
      end
      if due > now then
        outcome, field, value = 'scheduled', 'du', due
      else
        outcome, field, value = 'queued', 'e', make_ready(id, queue, priority)
      end
    end
    -- An entry tells the time of enqueue; but not if the server's clock was set back, since ids of entries only rise.
    if field ~= 'e' or find(value, NOW .. '-', 1, true) ~= 1 then add(extra, 'at', NOW) end
    if priority ~= '0' then add(extra, 'p', priority) end
    redis.call('HSET', key, 'st', outcome, field, value, 'n', task, 'q', queue, 'b', body, unpack(extra))
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
