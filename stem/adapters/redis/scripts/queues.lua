#!lua flags=allow-oom
-- Count queues, each in O(log n). ARGV from 2: names; none means all. Returns {now, rows, pauses flat}, a row being
-- name, ready, delayed, retrying, held, in flight, dead, time of the oldest ready one (-1: none), enqueued ever.
-- What is due is ready, also where no fetch has moved it to its stream yet: where nobody fetches it stands there for good.
local names = {}
for i = 2, #ARGV do
  if redis.call('SISMEMBER', P .. 'queues', ARGV[i]) == 1 then names[#names + 1] = ARGV[i] end
end
if #ARGV == 1 then names = redis.call('SMEMBERS', P .. 'queues') end
read_pauses()
local rows = {}
for _, queue in ipairs(names) do
  local function size(part) return redis.call('ZCARD', queue_key(queue, part)) end
  local in_flight, ready, oldest = size('lease'), 0, -1
  for _, flag in ipairs(redis.call('HKEYS', queue_key(queue, 'meta'))) do
    local priority = flag:match('^p(%d)$')
    if priority then
      local stream = stream_key(queue, priority)
      ready = ready + redis.call('XLEN', stream)
      local groups = redis.pcall('XINFO', 'GROUPS', stream)
      for _, group in ipairs(groups.err and {} or groups) do
        for i = 1, #group, 2 do
          if group[i] == 'last-delivered-id' then
            local first = redis.call('XRANGE', stream, '(' .. group[i + 1], '+', 'COUNT', 1)[1]
            local at = first and tonumber(first[1]:match('^%d+'))
            if at and (oldest < 0 or at < oldest) then oldest = at end
          end
        end
      end
    end
  end
  ready = math.max(ready - in_flight, 0)
  local function later(part)
    local set = queue_key(queue, part)
    local at = tonumber(redis.call('ZRANGE', set, 0, 0, 'WITHSCORES')[2] or '')
    if not at or at > now then return size(part) end
    local due = redis.pcall('ZCOUNT', set, '-inf', now)
    -- A viewer with the rights of an older version may not ask this; then one is known to be due.
    due = type(due) == 'number' and due or 1
    ready = ready + due
    if oldest < 0 or at < oldest then oldest = at end
    return size(part) - due
  end
  local delayed, retrying = later('delayed'), later('retry')
  rows[#rows + 1] = { queue, ready, delayed, retrying, size('held'), in_flight, size('dead'), oldest,
    num(redis.call('HGET', queue_key(queue, 'meta'), 'in')) }
end
return { now, rows, redis.call('HGETALL', P .. 'desired:pause') }
