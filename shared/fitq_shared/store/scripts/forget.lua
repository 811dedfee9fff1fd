-- Let the reconciler look no longer after a submission that is finished or gone; a retry makes it unfinished again.
-- KEYS  manifest, active
-- ARGV  submission
local manifest, active = unpack(KEYS)
local finished_at, retrying = unpack(redis.call('HMGET', manifest, 'finished_at', 'retrying'))
if redis.call('EXISTS', manifest) == 1 and (not finished_at or tonumber(retrying or 0) > 0) then return end
redis.call('SREM', active, ARGV[1])
