#!lua flags=allow-oom
-- Ask to be told when a task is final. ARGV from 2: id, client. Returns 1 final now, 0 will be told, -1 no such task.
-- Atomic, because a task that ends between the look and the wish would never be told of.
local key, client = task_key(ARGV[2]), ARGV[3]
local r = redis.pcall('HMGET', key, 'st', 'w')
if r.err or not r[1] then return -1 end
if FINAL[r[1]] then return 1 end
local waiters = r[2] or ''
if not (',' .. waiters .. ','):find(',' .. client .. ',', 1, true) then
  -- The 20 newest are told; an older one still looks by itself every few seconds.
  local kept = {}
  for one in waiters:gmatch('[^,]+') do kept[#kept + 1] = one end
  kept[#kept + 1] = client
  while #kept > 20 do table.remove(kept, 1) end
  redis.call('HSET', key, 'w', table.concat(kept, ','))
end
return 0
