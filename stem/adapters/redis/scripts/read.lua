#!lua flags=allow-oom
-- Desired state and the log behind it, in one step. ARGV[2]: the epoch after which log entries are wanted. Where that is
-- ahead of the epoch, data was lost, and its reader has seen nothing of what was stored since: it gets the newest 1 000.
-- Of more it would carry out again what it knows no more.
-- Returns {epoch, fence, now, {epoch, time, command, signature…}, pauses flat, drained ids, shutdowns flat}.
local epoch, after, log = num(redis.call('GET', P .. 'epoch')), tonumber(ARGV[2]), {}
if after > epoch then after = math.max(0, epoch - 1000) end
for _, entry in ipairs(redis.call('XRANGE', P .. 'control:log', (after + 1) .. '-0', '+', 'COUNT', 1000)) do
  -- An entry of another form is shown as a command that cannot be read.
  log[#log + 1] = entry[1]:match('^(%d+)')
  log[#log + 1] = entry[2][4] or ''
  log[#log + 1] = entry[2][2] or ''
  log[#log + 1] = entry[2][6] or ''
end
read_pauses()
return { epoch, num(redis.call('GET', P .. 'fence')), now, log,
  redis.call('HGETALL', P .. 'desired:pause'), redis.call('HKEYS', P .. 'desired:drain'),
  redis.call('HGETALL', P .. 'desired:shutdown') }
