#!lua flags=allow-oom
-- Run tasks again or now. ARGV[2]: 'replay' (dead letters only) or 'now' (also scheduled and retrying ones), then ids.
-- Returns per id: queued, already, final, not-dead, duplicate (another unfinished task holds its unique key) or unknown.
local out = {}
-- As for a new task: who waits past its expiry holds nothing any more.
local function held_by_another(unique, id)
  local holder = redis.call('GET', unique)
  local r = holder and holder ~= id and redis.pcall('HMGET', task_key(holder), 'st', 'x')
  if not r or r.err or not r[1] or FINAL[r[1]] then return false end
  return not r[2] or r[1] == 'running' or num(r[2]) > now
end
for i = 3, #ARGV do
  local id = ARGV[i]
  local key = task_key(id)
  local r = redis.pcall('HMGET', key, 'st', 'q', 'p', 'n', 'a', 'tb', 'u', 'at', 'e', 's1', 'o', 'f1', 'ds', 'tl')
  local state, queue, answer = r[1], queue_of(r[2]), nil
  local unique = r[7] and unique_key(r[4], r[7])
  if r.err or not state or not queue or r[6] then
    answer = 'unknown'
  elseif state == 'failed' and redis.call('ZSCORE', queue_key(queue, 'dead'), id) and unique and held_by_another(unique, id) then
    answer = 'duplicate'
  elseif state == 'failed' and redis.call('ZSCORE', queue_key(queue, 'dead'), id) then
    -- A new life with the same id: attempt and crashes start over, the token goes on so that nobody older can settle it.
    keep_time(key, r[8], r[9])
    redis.call('HSET', key, 'st', 'queued', 'a', '0', 'c', '0', 'e', make_ready(id, queue, r[3]))
    redis.call('HDEL', key, 'f1', 'ds', 're', 'rv', 'gb', 'g1', 'pg', 'x')
    redis.call('PERSIST', key)
    if unique then redis.call('SET', unique, id) end
    -- Its times of start and end are those of the new life from now on: what they told of the old one is kept here.
    local known = r[10] and (r[14] or ''):find(r[10] .. '\tstarted\t', 1, true)
    local ran = r[10] and not known and line(r[10], 'started', r[11], r[5]) or ''
    add_timeline(key, ran .. line(r[12], 'failed', r[11], r[5], r[13]) .. line(now, 'replayed', '', r[5]))
    redis.call('ZREM', queue_key(queue, 'dead'), id)
    count(queue, r[4], 'enqueued')
    ring(queue)
    answer = 'queued'
  elseif ARGV[2] == 'replay' then
    answer = 'not-dead'
  elseif state == 'scheduled' or state == 'retrying' then
    redis.call('HSET', key, 'st', 'queued', 'e', make_ready(id, queue, r[3]))
    redis.call('ZREM', queue_key(queue, 'delayed'), id)
    redis.call('ZREM', queue_key(queue, 'retry'), id)
    ring(queue)
    answer = 'queued'
  else
    answer = FINAL[state] and 'final' or 'already'
  end
  out[#out + 1] = answer
end
write_counts()
return out
