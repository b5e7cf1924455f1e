#!lua flags=allow-oom
-- Add to an audit row what came of it. ARGV from 2: the row's name, the outcome. Returns 1, or 0 if there is no such row.
-- The first outcome of a row stays: sent again it changes nothing. They are kept by their row's time, and leave with it.
local row, outcomes = ARGV[2], P .. 'audit:outcomes'
if #redis.call('XRANGE', P .. 'audit', row, row) == 0 then return 0 end
local at = num(row:match('^(%d+)'))
for _, told in ipairs(redis.call('ZRANGE', outcomes, at, at, 'BYSCORE', 'LIMIT', 0, 100)) do
  if told:sub(1, #row + 1) == row .. '\t' then return 1 end
end
redis.call('ZADD', outcomes, at, row .. '\t' .. now .. '\t' .. ARGV[3])
redis.call('ZREMRANGEBYRANK', outcomes, 0, -11001)
return 1
