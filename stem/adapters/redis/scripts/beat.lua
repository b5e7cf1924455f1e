#!lua flags=allow-oom
-- Store a heartbeat and renew leases, each only if owner and token still match: a late beat never takes a task back.
-- ARGV from 2: worker, name, state, heartbeat ('' renews only), lost after, number of leases, four per lease (id, token,
--   length, queue), number of progress values, two per value (id, packed), number of redactions, two per one (task, names
--   in lines), then four per measure (queue, task, field, by).
-- Returns now, epoch, watched, lost ids, revoked ids, known before. Atomic: the epoch belongs to the moment of the renewal.
local worker, name, state, heartbeat, lost_after = ARGV[2], ARGV[3], ARGV[4], ARGV[5], tonumber(ARGV[6])
local fleet, known = P .. 'fleet', 1
if heartbeat ~= '' then
  -- A gap in the whole fleet's beats means that the server was away: nobody could renew, so nobody is to be robbed yet.
  local last = num(redis.call('HGET', fleet, 'last') or now)
  if now - last > lost_after then redis.call('HSET', fleet, 'resumed', now) end
  redis.call('HSET', fleet, 'last', now)
  local key = P .. 'worker:' .. worker
  known = redis.call('HEXISTS', key, 'h')
  -- The goodbye is the last word: a beat that was under way when it was said does not bring the worker back.
  if state == 'stopped' or redis.call('HGET', key, 's') ~= 'stopped' then
    redis.call('HSET', key, 'h', heartbeat, 'n', name, 's', state)
  end
  redis.call('PEXPIRE', key, 3660000)
  redis.call('ZADD', P .. 'workers', now, worker)
  redis.call('ZREMRANGEBYSCORE', P .. 'workers', '-inf', now - 3600000)
  if state == 'stopped' then
    redis.call('HDEL', P .. 'desired:drain', worker)
    redis.call('HDEL', P .. 'desired:shutdown', worker)
  end
end
-- Adds to what is kept for a name: what an older program hid stays hidden. A spoilt key must not stop the heartbeats.
local function redact(task, lines)
  local key = P .. 'redact'
  local before = redis.pcall('HGET', key, task)
  if type(before) == 'table' or (not before and num(redis.call('HLEN', key)) >= 10000) then return end
  local all = '\n' .. (before or '') .. '\n'
  for line in lines:gmatch('[^\n]+') do
    if not all:find('\n' .. line .. '\n', 1, true) and #all + #line <= 20000 then all = all .. line .. '\n' end
  end
  redis.call('HSET', key, task, (all:gsub('^\n+', ''):gsub('\n$', '')))
end
local lost, revoked, renewed, held = {}, {}, {}, {}
local i = 8
for _ = 1, tonumber(ARGV[7]) do
  local id, queue = ARGV[i], ARGV[i + 3]
  local r = redis.pcall('HMGET', task_key(id), 'k', 'o', 'st', 'rv')
  if not r.err and r[1] == ARGV[i + 1] and r[2] == worker and r[3] == 'running' then
    renewed[queue] = renewed[queue] or {}
    table.insert(renewed[queue], now + tonumber(ARGV[i + 2]))
    table.insert(renewed[queue], id)
    held[id] = true
    if r[4] then revoked[#revoked + 1] = id end
  else
    lost[#lost + 1] = id
  end
  i = i + 4
end
for queue, pairs_ in pairs(renewed) do
  in_chunks(pairs_, 500, function(...) redis.call('ZADD', queue_key(queue, 'lease'), ...) end)
end
local values = tonumber(ARGV[i])
i = i + 1
for _ = 1, values do
  if held[ARGV[i]] then redis.call('HSET', task_key(ARGV[i]), 'pg', ARGV[i + 1]) end
  i = i + 2
end
local redactions = tonumber(ARGV[i])
i = i + 1
for _ = 1, redactions do
  redact(ARGV[i], ARGV[i + 1])
  i = i + 2
end
while ARGV[i] do
  count(ARGV[i], ARGV[i + 1], ARGV[i + 2], tonumber(ARGV[i + 3]))
  i = i + 4
end
write_counts()
local watched = redis.call('ZCOUNT', P .. 'watch', now, '+inf')
local fleet = redis.call('ZCOUNT', P .. 'workers', now - 10000, '+inf')
return { now, num(redis.call('GET', P .. 'epoch')), watched, lost, revoked, known, fleet }
