-- Included.
-- What is paused now: field "<kind>:<target>" -> until (0: without end). One whose time has come counts as resumed.
local function read_pauses()
  local flat = redis.call('HGETALL', P .. 'desired:pause')
  local pauses, next_end = {}, nil
  for i = 1, #flat, 2 do
    local until_ms = tonumber(flat[i + 1]:match('^%d+\t(%d+)')) or 0
    if until_ms == 0 or until_ms > now then
      pauses[flat[i]] = until_ms
      if until_ms > 0 and (not next_end or until_ms < next_end) then next_end = until_ms end
    else
      redis.call('HDEL', P .. 'desired:pause', flat[i])
    end
  end
  return pauses, next_end
end
