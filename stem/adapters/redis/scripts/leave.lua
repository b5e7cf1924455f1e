#!lua flags=allow-oom
-- Forget a worker's consumers. A consumer with pending entries stays: deleting it would make them undeliverable.
-- ARGV from 2: worker, then queues.
for i = 3, #ARGV do
  for priority = 0, 9 do
    local stream = stream_key(ARGV[i], priority)
    local pending = redis.pcall('XPENDING', stream, 'stem', '-', '+', 1, ARGV[2])
    if not pending.err and #pending == 0 then redis.pcall('XGROUP', 'DELCONSUMER', stream, 'stem', ARGV[2]) end
  end
end
return 1
