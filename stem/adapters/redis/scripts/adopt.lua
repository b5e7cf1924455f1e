#!lua flags=allow-oom
-- Find deliveries that this worker owns and does not know of (the reply that carried them was lost). About 1 MiB of bodies
-- at a time, though always one delivery (fetch.lua says why); only those in the answer begin their lease anew.
-- ARGV from 2: worker, lease where none is recorded, number of queues, queues, known ids. Returns {now, deliveries
-- as fetch does, all of their fields set, and last the time of the start}.
local worker, lease, n = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local aware, out, room = {}, {}, 1048576
for i = 5 + n, #ARGV do aware[ARGV[i]] = true end
for i = 5, 4 + n do
  local queue = ARGV[i]
  for _, flag in ipairs(redis.call('HKEYS', queue_key(queue, 'meta'))) do
    local priority = flag:match('^p(%d)$')
    local stream = priority and stream_key(queue, priority)
    local pending = stream and redis.pcall('XPENDING', stream, 'stem', '-', '+', 1000, worker) or {}
    for _, item in ipairs(pending.err and {} or pending) do
      local entry = redis.call('XRANGE', stream, item[1], item[1])[1]
      local id = entry and entry[2][2]
      if not (id and aware[id]) then
        local r = id and redis.pcall('HMGET', task_key(id), 'st', 'o', 'e', 'n', 'k', 'b', 'sg', 'a', 'c', 'lg', 'at', 's1', 'gb', 'g1',
          'l', 'rv')
          or { err = 'deleted' }
        if not r.err and r[1] == 'running' and r[2] == worker and r[3] == item[1] then
          -- One that an older version handed out has no granted length.
          local length = length_of(r[10], length_of(r[15], lease))
          -- What its worker has not received for the length of a lease, it is not going to (a large body, a slow link); to
          -- renew that for ever would keep it from all others. Left alone, its lease ends within two lengths of its start,
          -- and a sweep gives it to whoever is free. That is no crash of it: its worker lives. One that was revoked meanwhile
          -- must not begin: its lease ends now, and the next sweep ends it.
          if r[16] then
            redis.call('ZADD', queue_key(queue, 'lease'), now, id)
          elseif now - num(r[12]) <= length then
            room = room - #(r[6] or '')
            if room < 0 and #out > 0 then return { now, out } end
            redis.call('ZADD', queue_key(queue, 'lease'), now + length, id)
            out[#out + 1] = { id, r[4], r[5], queue, r[6], priority, r[8], digits(length), enqueued(r[11], r[3]), r[7] or '',
              num(r[9]), num(r[13]), num(r[14]), num(r[12]) }
          end
        else
          drop_entries(stream, item[1])
        end
      end
    end
  end
end
return { now, out }
