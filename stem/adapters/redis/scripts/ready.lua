-- Included: a task becomes ready, and who waits for one is woken.
-- Wakes one worker that is idle on this queue. One token is enough: whoever takes it and leaves work behind rings again.
local function ring(queue)
  local bell = queue_key(queue, 'bell')
  if redis.call('LLEN', bell) == 0 then redis.call('RPUSH', bell, '1') end
end

local known = {}
-- Makes sure that the stream of a priority has its group, created at 0 so that no earlier entry is passed over.
local function open_stream(queue, priority)
  local stream = stream_key(queue, priority)
  if not known[stream] then
    known[stream] = true
    if redis.call('HSETNX', queue_key(queue, 'meta'), 'p' .. rank(priority), '1') == 1 then
      redis.call('SADD', P .. 'queues', queue)
      redis.pcall('XGROUP', 'CREATE', stream, 'stem', '0', 'MKSTREAM')
    end
  end
  return stream
end

-- Makes a task ready: a new entry at the end of its priority's stream.
local function make_ready(id, queue, priority)
  return redis.call('XADD', open_stream(queue, priority), '*', 'i', id)
end
