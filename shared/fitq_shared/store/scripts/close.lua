-- Note that no more jobs come. The submission may be finished already.
-- KEYS  manifest, expiries
-- ARGV  submission, ttl in seconds ('0': for ever)
-- Returns 'closed', 'cancelled' (earlier) or 'gone' (no submission).
local manifest, expiries = unpack(KEYS)
local submission, ttl = unpack(ARGV)
local state = redis.call('HGET', manifest, 'state')
if not state then return 'gone' end
if state == 'cancelled' then return state end
redis.call('HSET', manifest, 'state', 'closed')
if redis.call('HGET', manifest, 'done_chunks') == redis.call('HGET', manifest, 'chunks') then
  redis.call('HSETNX', manifest, 'finished_at', now())
end
touch(expiries, submission, ttl)
return 'closed'
