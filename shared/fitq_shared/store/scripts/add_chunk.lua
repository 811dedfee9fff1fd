-- Add a chunk, whose frames were stored just before, to a submission. A chunk that is there already stays as it is.
-- KEYS  manifest, chunk_index, enqueued, job frame, digests of shared sets, frame of shared sets, staged job frame, expiries
-- ARGV  submission, chunk, its entry in the index, number of jobs, its lane, digest of shared sets ('': none),
--       prefix of the keys of the id index, parts of the job frame, ttl in seconds ('0': for ever), bytes of results to come,
--       then buckets of the id index and their new entries in turn
-- Returns 'added', 'duplicate', 'different' (other jobs under this number), 'closed' or 'cancelled' (no more jobs), 'gone' (no submission)
-- or 'missing' (a part of the staged frame).
local manifest, chunk_index, enqueued, frame, digests, sets, staged, expiries = unpack(KEYS)
local submission, chunk, entry, job_count, lane, digest, ids, parts, ttl, results_bytes = unpack(ARGV)
if redis.call('EXISTS', manifest) == 0 then remove_frame(staged) remove_frame(sets) return 'gone' end
local known = redis.call('HGET', chunk_index, chunk)
if known then
  remove_frame(staged)
  return known == entry and 'duplicate' or 'different'
end
local state = redis.call('HGET', manifest, 'state')
if state ~= 'open' then remove_frame(staged) return state end
if not move_frame(staged, frame, tonumber(parts)) then return 'missing' end
redis.call('HSET', chunk_index, chunk, entry)
redis.call('HSET', enqueued, chunk, lane .. ' ' .. now())
if digest ~= '' then redis.call('SADD', digests, digest) end
redis.call('HINCRBY', manifest, 'jobs', job_count)
redis.call('HINCRBY', manifest, 'chunks', 1)
redis.call('HINCRBY', manifest, 'results_bytes', results_bytes)
for i = 11, #ARGV, 2 do redis.call('APPEND', ids .. ARGV[i], ARGV[i + 1]) end
touch(expiries, submission, ttl)
return 'added'
