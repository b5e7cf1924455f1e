#!lua flags=allow-oom
-- Desired state and the log behind it, in one step. ARGV[2]: the epoch after which log entries are wanted.
-- Returns {epoch, fence, now, {epoch, time, command, signature…}, pauses flat, drained ids, shutdowns flat}.
local after = tonumber(ARGV[2])
local log = {}
for _, entry in ipairs(redis.call('XRANGE', P .. 'control:log', (after + 1) .. '-0', '+', 'COUNT', 1000)) do
  -- An entry of another form is shown as a command that cannot be read.
  log[#log + 1] = entry[1]:match('^(%d+)')
  log[#log + 1] = entry[2][4] or ''
  log[#log + 1] = entry[2][2] or ''
  log[#log + 1] = entry[2][6] or ''
end
read_pauses()
return { num(redis.call('GET', P .. 'epoch')), num(redis.call('GET', P .. 'fence')), now, log,
  redis.call('HGETALL', P .. 'desired:pause'), redis.call('HKEYS', P .. 'desired:drain'),
  redis.call('HGETALL', P .. 'desired:shutdown') }
