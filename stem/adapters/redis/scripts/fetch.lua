-- Part of exchange.lua. Hands out up to `want` deliveries of these queues, in their order, priorities 9 to 0.
-- No handler starts before its token is recorded here. What must not run is taken out on the way, at most 200 a call.
--
-- Each delivery is id, name, token, queue, body, priority, attempt, lease, time of enqueue; and only where one of them is
-- set: signature, crashes, give-backs, time of the first one. They start at the answer's own time.
-- Each task that came too late is id, name, queue, body, attempt, signature: its end is told to this worker alone.
local SKIP_LIMIT, PROMOTE_LIMIT, HELD_LIMIT = 200, 200, 200
local HELD_LOOK = 2000
-- So many crashes, and one more buries the task. A worker holds only one such task at a time: whatever runs beside a
-- poisonous one shares its crashes, and would be buried with it. The others are put off, for whoever is free then.
local LAST_CHANCE, SUSPECT_DELAY = math.max(1, tonumber(ARGV[5]) - 1), 1000

-- Its worker's hash names the one it got last (`ls`).
local function holds_suspect(worker)
  local id = redis.call('HGET', P .. 'worker:' .. worker, 'ls')
  local r = id and redis.pcall('HMGET', task_key(id), 'st', 'o', 'c') or { err = 'none' }
  return not r.err and r[1] == 'running' and r[2] == worker and num(r[3]) >= LAST_CHANCE
end

-- Moves what is due to the end of its stream; returns the time of the next one that is not.
local function promote(queue, part)
  local set = queue_key(queue, part)
  local head = redis.call('ZRANGE', set, 0, 0, 'WITHSCORES')
  if not head[1] then return nil end
  if tonumber(head[2]) > now then return tonumber(head[2]) end
  for _, id in ipairs(redis.call('ZRANGE', set, '-inf', now, 'BYSCORE', 'LIMIT', 0, PROMOTE_LIMIT)) do
    local key = task_key(id)
    local r = redis.pcall('HMGET', key, 'st', 'p')
    if r[1] == 'scheduled' or r[1] == 'retrying' then
      redis.call('HSET', key, 'st', 'queued', 'e', make_ready(id, queue, r[2]))
    end
    redis.call('ZREM', set, id)
  end
  head = redis.call('ZRANGE', set, 0, 0, 'WITHSCORES')
  return head[1] and tonumber(head[2])
end

-- Puts back what was held for a paused task name that is not paused any more. Those still paused go to the end of the
-- held ones, so that each look sees others. Whenever other names are paused than before (`hp`) there is a round: so many
-- are still to be looked at (`hl`), a part every 100 ms. Between two rounds there is nothing to find; a look now and then
-- is for what went wrong. Returns when to look again, where that may find more.
local function release_held(queue, pauses)
  local held, meta, names = queue_key(queue, 'held'), queue_key(queue, 'meta'), {}
  for target in pairs(pauses) do
    if target:sub(1, 5) == 'task:' then names[#names + 1] = target end
  end
  table.sort(names)
  local paused = redis.sha1hex(table.concat(names, '\n'))
  local before, size = redis.call('HMGET', meta, 'hp', 'hl', 'hs'), redis.call('ZCARD', held)
  local left = before[1] == paused and math.min(num(before[2]), size) or size
  if before[1] == paused and within(before[3], left > 0 and 100 or HELD_LOOK) then
    return left > 0 and num(before[3]) + 100 or nil
  end
  local last = tonumber(redis.call('ZRANGE', held, -1, -1, 'WITHSCORES')[2] or '') or 0
  local behind = last >= now and last + 1 or now
  local ids = redis.call('ZRANGE', held, 0, HELD_LIMIT - 1)
  for _, id in ipairs(ids) do
    local key = task_key(id)
    local r = redis.pcall('HMGET', key, 'st', 'p', 'n')
    if r[1] ~= 'queued' then
      redis.call('ZREM', held, id)
    elseif pauses['task:' .. (r[3] or '')] then
      redis.call('ZADD', held, behind, id)
    else
      redis.call('HSET', key, 'e', make_ready(id, queue, r[2]))
      redis.call('ZREM', held, id)
    end
  end
  if redis.call('ZCARD', held) == 0 then
    redis.call('HDEL', meta, 'hs', 'hd', 'hp', 'hl')
    return nil
  end
  left = math.max(left - #ids, 0)
  redis.call('HSET', meta, 'hp', paused, 'hl', left, 'hs', now)
  return left > 0 and now + 100 or nil
end

local mended, expired = {}, {}
local function read_stream(queue, stream, worker, want)
  local reply = redis.pcall('XREADGROUP', 'GROUP', 'stem', worker, 'COUNT', want, 'STREAMS', stream, '>')
  if reply and reply.err then
    -- NOGROUP: the stream or its group vanished under us. Made anew at 0, so that nothing in it is passed over.
    redis.pcall('XGROUP', 'CREATE', stream, 'stem', '0', 'MKSTREAM')
    mended[#mended + 1] = queue
    reply = redis.call('XREADGROUP', 'GROUP', 'stem', worker, 'COUNT', want, 'STREAMS', stream, '>')
  end
  return reply and reply[1] and reply[1][2] or {}
end

local function ready_in(queue, flags)
  local total = -redis.call('ZCARD', queue_key(queue, 'lease'))
  for priority = 0, 9 do
    if flags[10 - priority] then total = total + redis.call('XLEN', stream_key(queue, priority)) end
  end
  return total
end

-- So many bytes of bodies in one answer, those of what came too late among them, though always one. An answer must arrive whole before its reader's
-- patience is over (7 s): one that is too large for a slow link would get lost each time, with all that it holds.
local room, full = 1048576, false

-- Puts back, each in its place, what was read from here on: the group's mark goes to just before it. False where a user
-- may not do that (the rights of an older version): all is handed out then.
local function unread(stream, entries, from)
  local ms, seq = entries[from][1]:match('^(%d+)%-(%d+)$')
  local before = seq == '0' and digits(tonumber(ms) - 1) .. '-18446744073709551615' or ms .. '-' .. digits(tonumber(seq) - 1)
  if redis.pcall('XGROUP', 'SETID', stream, 'stem', before).err then return false end
  local rest = {}
  for place = from, #entries do rest[#rest + 1] = entries[place][1] end
  in_chunks(rest, 500, function(...) redis.call('XACK', stream, 'stem', ...) end)
  return true
end

-- Which priorities of a queue have a stream, 9 first; and as the eleventh whether anything is held.
local function flags_of(queue)
  return redis.call('HMGET', queue_key(queue, 'meta'), 'p9', 'p8', 'p7', 'p6', 'p5', 'p4', 'p3', 'p2', 'p1', 'p0', 'hd')
end

-- Takes from one queue into `out`; returns how many were delivered and how many were skipped, and whether some were put off.
local function take(queue, flags, worker, want, skips, pauses, lease, leases, out)
  local got, skipped, put_off, deadlines = 0, 0, false, {}
  local lengths, ends, printed = {}, {}, {}  -- lease by task name, its end and its text by length
  for slot = 1, 10 do
    local priority, stream, rank = 10 - slot, nil, nil
    if flags[slot] then stream, rank = stream_key(queue, priority), tostring(priority) end
    while stream and got < want and skipped < skips and not full do
      local asked = want - got
      local entries, drop = read_stream(queue, stream, worker, asked), {}
      for place, entry in ipairs(entries) do
        local id = entry[2] and entry[2][2]
        local key = id and task_key(id)
        local r = id and redis.pcall('HMGET', key, 'st', 'e', 'k', 'x', 'n', 'a', 'c', 'l', 'b', 'sg', 'at', 'gb', 'g1',
          'q', 'p') or { err = 'deleted' }
        if r.err or r[1] ~= 'queued' or r[2] ~= entry[1] then
          drop[#drop + 1] = entry[1]
        elseif r[4] and num(r[4]) <= now then
          if #(r[9] or '') > room and (#out > 0 or #expired > 0) and unread(stream, entries, place) then
            full = true
            break
          end
          room = room - #(r[9] or '')
          local more = redis.call('HMGET', key, 'u', 'w', 's1', 'o')
          redis.call('HSET', key, 'st', 'expired', 'f1', now, 'ds', r[3] and 'expired before it could start again' or 'expired before it could start')
          redis.call('PEXPIRE', key, 86400000)
          release_unique(r[5], more[1], id)
          tell_waiters(more[2], id)
          count(queue, r[5], 'expired')
          add_history(id, 'expired', r[5], queue, more[4], r[6], enqueued(r[11], r[2]), more[3], '')
          drop[#drop + 1] = entry[1]
          expired[#expired + 1] = { id, r[5] or '', queue, r[9] or '', r[6] or '', r[10] or '' }
        elseif pauses['task:' .. (r[5] or '')] then
          redis.call('ZADD', queue_key(queue, 'held'), now, id)
          redis.call('HSET', queue_key(queue, 'meta'), 'hd', '1')
          keep_time(key, r[11], r[2])
          redis.call('HSET', key, 'e', '')
          drop[#drop + 1] = entry[1]
        elseif num(r[7]) >= LAST_CHANCE and holds_suspect(worker) then
          put_off = true
          redis.call('ZADD', queue_key(queue, 'delayed'), now + SUSPECT_DELAY, id)
          redis.call('HSET', key, 'st', 'scheduled', 'du', now + SUSPECT_DELAY, 'e', '', 'q', queue, 'p', priority)
          drop[#drop + 1] = entry[1]
        elseif #(r[9] or '') > room and (#out > 0 or #expired > 0) and unread(stream, entries, place) then
          full = true
          break
        else
          room = room - #(r[9] or '')
          local token, name, crashes = digits(num(r[3]) + 1), r[5], num(r[7])
          local length = r[8] and length_of(r[8], nil) or lengths[name]
          if not length then
            length = tonumber(leases[name] or lease)
            lengths[name or ''] = length
          end
          local deadline = ends[length]
          if not deadline then
            deadline = digits(now + length)
            ends[length], printed[length] = deadline, digits(length)
          end
          -- Where it stands is where it belongs: what settles it later finds it by these.
          if r[14] ~= queue or (r[15] or '0') ~= rank then redis.call('HSET', key, 'q', queue, 'p', rank) end
          if crashes >= LAST_CHANCE then
            redis.call('HSET', P .. 'worker:' .. worker, 'ls', id)
            redis.call('PEXPIRE', P .. 'worker:' .. worker, 3660000)
          end
          if r[3] then redis.call('HDEL', key, 'pg') end  -- it started before: that is no progress of this try
          redis.call('HSET', key, 'st', 'running', 'k', token, 'o', worker, 's1', NOW, 'lg', printed[length])
          deadlines[#deadlines + 1] = deadline
          deadlines[#deadlines + 1] = id
          local row = { id, name, token, queue, r[9], rank, r[6], printed[length], enqueued(r[11], r[2]) }
          if r[10] or r[7] or r[12] or r[13] then
            row[10], row[11], row[12], row[13] = r[10] or '', crashes, num(r[12]), num(r[13])
          end
          out[#out + 1] = row
          got = got + 1
        end
      end
      if #drop > 0 then
        in_chunks(drop, 500, function(...) drop_entries(stream, ...) end)
        skipped = skipped + #drop
      end
      if room < 0 then full = true end  -- nothing could be put back: at least no more is read
      if #entries < asked then
        if priority > 0 and #entries == 0 and redis.call('XLEN', stream) == 0 then
          redis.call('HDEL', queue_key(queue, 'meta'), 'p' .. priority)
          known[stream] = nil
        end
        break
      end
    end
  end
  in_chunks(deadlines, 500, function(...) redis.call('ZADD', queue_key(queue, 'lease'), ...) end)
  return got, skipped, put_off
end

local function fetch(worker, i)
  local epoch, want, lease, n = tonumber(ARGV[i]), tonumber(ARGV[i + 1]), ARGV[i + 2], tonumber(ARGV[i + 3])
  local fence = num(redis.call('GET', P .. 'fence'))
  if fence > epoch then return { 1, 0, -1, {}, {}, {} } end
  local leases = {}
  for j = i + 4 + n, #ARGV - 1, 2 do leases[ARGV[j]] = ARGV[j + 1] end
  local pauses, next_due = read_pauses()
  if next(pauses) ~= nil then
    local name = redis.call('HGET', P .. 'worker:' .. worker, 'n')
    if pauses['worker:' .. worker] or name and pauses['worker:' .. name] then
      return { 0, 0, next_due and math.max(next_due - now, 0) or -1, {}, {}, {} }
    end
  end
  local out, got, skipped, more = {}, 0, 0, 0
  for j = i + 4, i + 3 + n do
    local queue = ARGV[j]
    if not pauses['queue:' .. queue] then
      for _, part in ipairs({ 'delayed', 'retry' }) do
        local due = promote(queue, part)
        if due and (not next_due or due < next_due) then next_due = due end
      end
      local flags = flags_of(queue)
      if flags[11] then
        local look = release_held(queue, pauses)
        if look and (not next_due or look < next_due) then next_due = look end
        flags = flags_of(queue)  -- what came back may have opened a stream
      end
      if got < want and skipped < SKIP_LIMIT and not full then
        local taken, dropped, put_off =
          take(queue, flags, worker, want - got, SKIP_LIMIT - skipped, pauses, lease, leases, out)
        got, skipped = got + taken, skipped + dropped
        if put_off then next_due = math.min(next_due or math.huge, now + SUSPECT_DELAY) end
      end
      if (got >= want or skipped >= SKIP_LIMIT or full) and ready_in(queue, flags) > 0 then
        more = 1
        ring(queue)
      end
    end
  end
  return { 0, more, next_due and math.max(next_due - now, 0) or -1, out, mended, expired }
end
