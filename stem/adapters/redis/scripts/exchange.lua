#!lua flags=allow-oom
-- Settle some deliveries and fetch others: one round trip for what a busy worker does all the time.
-- ARGV from 2: worker, dead letters kept, for how long, crashes until poison, number of settlements and of their
--   arguments, settlements (settle.lua), then nothing or: epoch, count, lease, number of queues, queues, pairs of task
--   name and lease.
-- Returns now, answers, and nothing or {stale, more, next due in, deliveries, queues whose group was made anew, tasks that
--   came too late}.
local worker = ARGV[2]
local places, at = entries_from(8, tonumber(ARGV[6]))
-- Changed on its way, an outcome could make the others be taken for what they are not.
if at ~= 8 + tonumber(ARGV[7]) then return redis.error_reply('ILLFORMED a batch of settlements') end
local answers = {}
if places[1] then answers = settle(worker, places, tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])) end
local fetched = {}
if ARGV[at] then fetched = fetch(worker, at) end
write_history()
write_counts()
return { now, answers, fetched }
