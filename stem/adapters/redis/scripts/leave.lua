#!lua flags=allow-oom
-- Forget a worker's consumers, where they own nothing. ARGV from 2: worker, then queues.
for i = 3, #ARGV do
  for priority = 0, 9 do forget_consumer(stream_key(ARGV[i], priority), ARGV[2]) end
end
return 1
