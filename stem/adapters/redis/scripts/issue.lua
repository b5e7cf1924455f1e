#!lua flags=allow-oom
-- Store a command: change desired state, append it to the log, raise the epoch (and the fence), write the audit row, say
-- who is there, wake the workers. ARGV from 2: command id, command, type, actor, reason, targets as text, change
-- ('' revoke pause resume drain undrain shutdown), its option (terminate | until in ms | mode), kind, signature, number of
-- targets, then those of the change.
-- Returns {epoch, now, {target, outcome, changed, worker, state…}, {worker, at, heartbeat…}, the audit row's name}.
-- Atomic and once per command id: a controller that saw no answer sends it again and gets the same one.
local id, command, kind_of, actor, reason, said = ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local change, option, kind, signature, meant = ARGV[8], ARGV[9], ARGV[10], ARGV[11], ARGV[12]
local request = P .. 'request:' .. id
local before = redis.call('HMGET', request, 'epoch', 'items', 'audit')
local items, did = {}, {}
local function item(target, outcome, changed, worker, state)
  for _, value in ipairs({ target, outcome, changed and '1' or '0', worker or '', state or '' }) do items[#items + 1] = value end
  did[outcome] = (did[outcome] or 0) + 1
end

local function revoke(task_id)
  local key = task_key(task_id)
  local r = redis.pcall('HMGET', key, unpack(WAITING))
  if r.err then return item(task_id, 'unreadable', false) end
  local state = r[5]
  if not state then
    redis.call('HSET', key, 'st', 'revoked', 'tb', '1', 'ds', reason, 'f1', now)
    redis.call('PEXPIRE', key, 86400000)
    return item(task_id, 'stored', true)
  end
  if state == 'revoked' then return item(task_id, 'already', false, '', state) end
  if FINAL[state] then return item(task_id, 'final', false, '', state) end
  if state == 'running' then
    local first = redis.call('HSETNX', key, 'rv', reason) == 1
    if first then add_timeline(key, line(now, 'revoke asked', '', r[8], reason)) end
    return item(task_id, 'running', first, r[11], state)
  end
  add_timeline(key, line(now, 'revoked', '', r[8], reason))
  end_waiting(task_id, key, r, 'revoked', reason, 86400000)
  return item(task_id, 'revoked', true, '', state)
end

local function set_in(hash, target, value)
  local same = redis.call('HGET', hash, target) == value
  redis.call('HSET', hash, target, value)
  item(target, same and 'already' or 'set', not same)
end

local function clear_in(hash, target, field)
  local was = redis.call('HDEL', hash, field) == 1
  item(target, was and 'cleared' or 'already', was)
end

local epoch, audit
if before[1] then
  epoch, audit = num(before[1]), before[3] or ''
  for value in (before[2] or ''):gmatch('([^\t]*)\t') do items[#items + 1] = value end
else
  epoch = redis.call('INCR', P .. 'epoch')
  if change == 'resume' then read_pauses() end  -- one whose time has come is none
  for i = 13, #ARGV do
    local target = ARGV[i]
    if change == 'revoke' then
      revoke(target)
    elseif change == 'pause' then
      local hash, field = P .. 'desired:pause', kind .. ':' .. target
      local ends = option == '' and '0' or tostring(now + tonumber(option))
      local old = redis.call('HGET', hash, field)
      local same = old and ends == '0' and old:match('^%d+\t(%d+)') == '0'
      if not same then
        redis.call('HSET', hash, field, now .. '\t' .. ends .. '\t' .. actor .. '\t' .. reason)
      end
      item(target, same and 'already' or 'set', not same)
    elseif change == 'resume' then
      clear_in(P .. 'desired:pause', target, kind .. ':' .. target)
    elseif change == 'drain' then
      set_in(P .. 'desired:drain', target, '1')
    elseif change == 'undrain' then
      clear_in(P .. 'desired:drain', target, target)
    elseif change == 'shutdown' then
      set_in(P .. 'desired:shutdown', target, option)
    end
  end
  if change == 'resume' or change == 'undrain' then
    for _, queue in ipairs(redis.call('SMEMBERS', P .. 'queues')) do
      redis.call('HDEL', queue_key(queue, 'meta'), 'hs')
      ring(queue)
    end
  end
  -- Desired state of workers that are gone for good is dropped here, where the hashes grow.
  if change == 'drain' or change == 'shutdown' then
    for _, hash in ipairs({ P .. 'desired:drain', P .. 'desired:shutdown' }) do
      for _, worker in ipairs(redis.call('HKEYS', hash)) do
        if redis.call('EXISTS', P .. 'worker:' .. worker) == 0 then redis.call('HDEL', hash, worker) end
      end
    end
  end
  if change ~= '' and change ~= 'revoke' then redis.call('SET', P .. 'fence', epoch) end
  local log = P .. 'control:log'
  redis.call('XADD', log, 'MAXLEN', '~', 100000, epoch .. '-0', 'c', command, 't', now, 's', signature)
  for _, old in ipairs(redis.call('XRANGE', log, '-', '+', 'COUNT', 20)) do
    if now - num(old[2][4]) > 86400000 then redis.call('XDEL', log, old[1]) end
  end
  local asks = kind_of == 'ping' or kind_of == 'inspect' or kind_of == 'stats'
  if not asks then
    local counts = {}
    for outcome, n in pairs(did) do counts[#counts + 1] = outcome .. ':' .. n end
    audit = add_audit(id, kind_of, actor, reason, said, meant, kind, option, epoch, table.concat(counts, ' '))
  end
  -- For a repeated call, which changes nothing: it would not find out any more what this one did. Some ten thousand items
  -- are kept; of more than that it is told none.
  local kept = #items > 0 and table.concat(items, '\t') .. '\t' or ''
  if #kept > 1048576 then kept = '' end
  redis.call('HSET', request, 'epoch', epoch, 'items', kept, 'audit', audit or '')
  redis.call('PEXPIRE', request, 600000)
  write_history()
  write_counts()
  -- The wake-up of a question carries it: a worker that has read all before it answers without a look at the log.
  local carried = asks and change == '' and #command <= 4096 and epoch .. ' ' .. now .. ' ' .. #signature .. ' ' .. signature .. command
  redis.call('PUBLISH', C .. 'control', carried or epoch)
end
local present = {}
local seen = redis.call('ZRANGE', P .. 'workers', 0, -1, 'WITHSCORES')
for i = 1, #seen, 2 do
  local heartbeat = redis.call('HGET', P .. 'worker:' .. seen[i], 'h')
  if heartbeat then
    present[#present + 1] = seen[i]
    present[#present + 1] = seen[i + 1]
    present[#present + 1] = heartbeat
  end
end
return { epoch, now, items, present, audit or '' }
