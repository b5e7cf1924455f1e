#!lua flags=allow-oom
-- Settle some deliveries and fetch others: one round trip for what a busy worker does all the time.
-- ARGV from 2: worker, dead letters kept, for how long, crashes until poison, number of settlements, ten per settlement
--   (settle.lua), then nothing or: epoch, count, lease, number of queues, queues, pairs of task name and lease.
-- Returns now, answers, and nothing or {stale, more, next due in, deliveries, queues whose group was made anew}.
local worker, n = ARGV[2], tonumber(ARGV[6])
local answers = settle(worker, 7, n, tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]))
local at = 7 + n * 10
local fetched = {}
if ARGV[at] then fetched = fetch(worker, at) end
write_history()
write_counts()
return { now, answers, fetched }
