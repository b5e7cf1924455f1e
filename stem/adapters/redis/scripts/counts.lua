-- Included: statistics by the minute, and the history of what ended. Both gather, and are written once a script.
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
-- A queue's task is counted by itself if it is among the first 200 of the minute, so that memory stays bounded; the others
-- are counted together. Each of those has a field <queue>|<task>, the field `names` says how many there are, and readers
-- pass over both. They are looked at once a minute for each count, when it is the first.
local function write_counts()
  if not last then return end
  local key = P .. 'stats:' .. math.floor(now / 60000)
  for name, counts in pairs(counted) do
    local other
    for what, by in pairs(counts) do
      local field = (other or name) .. what
      if redis.pcall('HINCRBY', key, field, by) == by and not other then
        local mark = name:sub(1, -2)
        if redis.call('HEXISTS', key, mark) == 0 then
          local names = num(redis.call('HGET', key, 'names'))
          if names < 200 then
            redis.call('HSET', key, 'names', names + 1, mark, '1')
          else
            other = (name:match('^([^|]*)') or '') .. '|~other|'
            redis.call('HDEL', key, field)
            redis.pcall('HINCRBY', key, other .. what, by)
          end
        end
        redis.call('EXPIRE', key, 10860)
      end
    end
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
  local length = 0
  in_chunks(finals, 500, function(...) length = redis.call('LPUSH', P .. 'history', ...) end)
  if length > 10500 then redis.call('LTRIM', P .. 'history', 0, 9999) end
end
