-- End retries that are not committed: their jobs keep the results that they have.
-- KEYS  manifest, chunk_index, enqueued, attempts, starts, trials, retries, expiries
-- ARGV  submission, ttl in seconds ('0': for ever), prefix of the keys of job frames, prefix of those of leases, then chunks
--       (none: all retries)
-- Returns the number of chunks that were ended.
local manifest, chunk_index, enqueued, attempts, starts, trials, retries, expiries = unpack(KEYS)
local submission, ttl, jobs, lease = unpack(ARGV)
local chunks = #ARGV > 4 and {unpack(ARGV, 5)} or redis.call('HKEYS', retries)
local ended = 0
for _, chunk in ipairs(chunks) do
  local retry = redis.call('HGET', retries, chunk)
  if retry then
    redis.call('HINCRBY', manifest, 'retrying', -cjson.decode(retry).jobs)
    for _, hash in ipairs({retries, chunk_index, enqueued, attempts, starts, trials}) do redis.call('HDEL', hash, chunk) end
    redis.call('UNLINK', lease .. chunk)
    remove_frame(jobs .. chunk)
    ended = ended + 1
  end
end
if ended > 0 then touch(expiries, submission, ttl) end
return ended
