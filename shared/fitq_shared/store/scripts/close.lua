-- Note that no more jobs come. The submission may be finished already.
-- KEYS  manifest, expiries
-- ARGV  submission, ttl in seconds ('0': for ever), number of its chunks ('': any)
-- Returns 'closed', 'cancelled' (earlier), 'more' or 'fewer' (than these chunks are in an open submission) or 'gone' (no submission).
local manifest, expiries = unpack(KEYS)
local submission, ttl, chunks = unpack(ARGV)
local state = redis.call('HGET', manifest, 'state')
if not state then return 'gone' end
if state == 'cancelled' then return state end
if state == 'open' and chunks ~= '' then
  local added = tonumber(redis.call('HGET', manifest, 'chunks'))
  if added > tonumber(chunks) then return 'more' end
  if added < tonumber(chunks) then return 'fewer' end
end
redis.call('HSET', manifest, 'state', 'closed')
if redis.call('HGET', manifest, 'done_chunks') == redis.call('HGET', manifest, 'chunks') then
  redis.call('HSETNX', manifest, 'finished_at', now())
end
touch(expiries, submission, ttl)
return 'closed'
