-- Let a worker keep the chunk that it still holds.
-- KEYS  lease
-- ARGV  worker, lease in seconds
-- Returns 1, or 0 where the chunk is not the worker's any more.
local lease, worker, seconds = KEYS[1], ARGV[1], ARGV[2]
if redis.call('GET', lease) == worker then return redis.call('EXPIRE', lease, seconds) end
return 0
