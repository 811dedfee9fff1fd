-- End a submission early: what is fitted stays, nothing more is fitted or added.
-- KEYS  manifest, enqueued, active, expiries
-- ARGV  submission, ttl in seconds ('0': for ever)
-- Returns 'cancelled' (now or earlier), 'finished' (nothing is left to cancel) or 'gone' (no submission).
local manifest, enqueued, active, expiries = unpack(KEYS)
local submission, ttl = unpack(ARGV)
if redis.call('EXISTS', manifest) == 0 then return 'gone' end
if redis.call('HGET', manifest, 'state') == 'cancelled' then return 'cancelled' end
if redis.call('HEXISTS', manifest, 'finished_at') == 1 then return 'finished' end
redis.call('HSET', manifest, 'state', 'cancelled', 'finished_at', now())
redis.call('UNLINK', enqueued)
redis.call('SREM', active, submission)
touch(expiries, submission, ttl)
return 'cancelled'
