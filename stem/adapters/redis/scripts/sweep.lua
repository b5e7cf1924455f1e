#!lua flags=allow-oom
-- Give tasks whose lease ran out back to their queues. Crashes + 1 only when the owner is lost (no beat, or goodbye); at
-- the limit the task is poison. ARGV from 2: dead letters kept, for how long, crashes until poison, lost after, packed
-- error of a lost worker, caller, then queues. Returns {requeued, buried, why nothing was looked at, whether there may be
-- more}.
-- Forget consumers, too, once a minute. Bounded (100 tasks and 500 consumers a queue); rate-limited over the fleet, but
-- for a queue of which as many were taken as one call may; and put off while a gap in all heartbeats is younger than two
-- beats.
local LIMIT = 100
local dead_cap, dead_keep, max_crashes = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local lost_after, lost_error = tonumber(ARGV[5]), ARGV[6]
local fleet = redis.call('HMGET', P .. 'fleet', 'last', 'resumed')
if fleet[1] and now - num(fleet[1]) > lost_after
  or within(fleet[2], lost_after * 2 / 3) then
  return { 0, 0, 'outage', 0 }
end
-- Who said goodbye took its consumers along. Those of workers that nobody has heard of for an hour go here.
local function reap(queue)
  local left = 500
  for priority = 0, 9 do
    local stream = stream_key(queue, priority)
    local consumers = redis.pcall('XINFO', 'CONSUMERS', stream, 'stem')
    for _, consumer in ipairs(consumers.err and {} or consumers) do
      if left > 0 and not redis.call('ZSCORE', P .. 'workers', consumer[2]) then
        forget_consumer(stream, consumer[2])
        left = left - 1
      end
    end
  end
  return left > 0
end

local requeued, buried, looked, more = 0, 0, false, 0
for i = 8, #ARGV do
  local queue = ARGV[i]
  local meta, leases = queue_key(queue, 'meta'), queue_key(queue, 'lease')
  if not within(redis.call('HGET', meta, 'sw'), lost_after / 6) then
    looked = true
    local woke, over = false, redis.call('ZRANGE', leases, '-inf', now, 'BYSCORE', 'LIMIT', 0, LIMIT)
    if #over < LIMIT then redis.call('HSET', meta, 'sw', now) else more = 1 end
    for _, id in ipairs(over) do
      local key = task_key(id)
      local r = redis.pcall('HMGET', key, 'st', 'o', 'p', 'e', 'n', 'a', 'c', 'rv', 's1', 'u', 'w', 'at', 'k')
      if not r.err and r[1] == 'running' then
        local owner, priority, entry, task, attempt = r[2] or '', r[3], r[4] or '', r[5], num(r[6])
        local stream = stream_key(queue, priority)
        local beat = redis.call('ZSCORE', P .. 'workers', owner)
        local alive = beat and now - num(beat) <= lost_after
          and redis.call('HGET', P .. 'worker:' .. owner, 's') ~= 'stopped'
        local crashes = num(r[7]) + (alive and 0 or 1)
        local note = alive and 'the lease ran out' or 'the worker was lost'
        local state = r[8] and 'revoked' or crashes >= max_crashes and not alive and 'failed'
        -- Its new place first: where that is refused (a spoilt key), no crash is counted, or a task that was given back
        -- by nobody would soon be poison.
        local stands
        if not state then
          stands = make_ready(id, queue, priority)
        elseif state == 'failed' then
          redis.call('ZADD', queue_key(queue, 'dead'), now, id)
        end
        add_timeline(key, line(num(r[9]), 'started', owner, attempt) .. line(now, 'reclaimed', owner, attempt, note))
        redis.call('HSET', key, 'c', crashes)
        if not alive then count(queue, task, 'crashed') end
        if state then
          redis.call('HSET', key, 'st', state, 'f1', now, 'ds', r[8] or 'poison')
          if state == 'failed' then
            redis.call('HSET', key, 'er', lost_error)
            bury(queue, id, dead_cap, dead_keep)
            buried = buried + 1
          else
            redis.call('PEXPIRE', key, 86400000)
          end
          release_unique(task, r[10], id)
          tell_waiters(r[11], id)
          count(queue, task, state)
          add_history(id, state, task, queue, owner, attempt, enqueued(r[12], entry), r[9], state == 'failed' and 'WorkerLostError' or '')
        else
          keep_time(key, r[12], entry)
          redis.call('HSET', key, 'st', 'queued', 'o', '', 'e', stands)
          redis.call('HDEL', key, 'gb', 'g1')  -- it ran: somebody knew it
          requeued, woke = requeued + 1, true
        end
        drop_entries(stream, entry)
      end
      redis.call('ZREM', leases, id)
    end
    if woke then ring(queue) end
    if not within(redis.call('HGET', meta, 'rp'), 60000) and reap(queue) then redis.call('HSET', meta, 'rp', now) end
  end
end
write_history()
write_counts()
return { requeued, buried, looked and '' or 'recent', more }
