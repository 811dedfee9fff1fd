-- Note which jobs of a chunk its worker is about to fit, so that the next one knows with which it died.
-- KEYS  trials, lease
-- ARGV  chunk, worker, what to note
-- Returns 1, or 0 where the chunk is not the worker's any more.
local trials, lease = unpack(KEYS)
local chunk, worker, trial = unpack(ARGV)
if redis.call('GET', lease) ~= worker then return 0 end
redis.call('HSET', trials, chunk, trial)
return 1
