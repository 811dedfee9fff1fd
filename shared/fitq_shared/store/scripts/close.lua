-- Note that no more jobs come. The submission may be finished already.
-- KEYS  manifest
-- ARGV  now
-- Returns 1, or 0 where there is no submission.
local manifest, now = KEYS[1], ARGV[1]
if redis.call('EXISTS', manifest) == 0 then return 0 end
redis.call('HSET', manifest, 'state', 'closed')
if redis.call('HGET', manifest, 'done_chunks') == redis.call('HGET', manifest, 'chunks') then
  redis.call('HSETNX', manifest, 'finished_at', now)
end
return 1
