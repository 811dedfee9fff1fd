-- Add a chunk, whose frames were stored just before, to a submission. A chunk that is there already stays as it is.
-- KEYS  manifest, chunk_index, enqueued, job frame, digests of shared sets, frame of shared sets, staged job frame, expiries,
--       submissions
-- ARGV  submission, chunk, its entry in the index, number of jobs, its lane, digest of shared sets ('': none),
--       prefix of the keys of the id index, parts of the job frame, ttl in seconds ('0': for ever), bytes of results to come,
--       key of the quota (KEYS are for those who may write them), namespace, then buckets of the id index and their new
--       entries in turn
-- Returns 'added', 'duplicate', 'different' (other jobs under this number), 'closed' or 'cancelled' (no more jobs), 'gone' (no
-- submission), 'missing' (a part of the staged frame) or 'quota' (the namespace may not have so many jobs or bytes).
local manifest, chunk_index, enqueued, frame, digests, sets, staged, expiries, submissions = unpack(KEYS)
local submission, chunk, entry, job_count, lane, digest, ids, parts, ttl, results_bytes, quota, namespace = unpack(ARGV)

-- Whether so many more go beyond a limit. What is used is the sum over all manifests each time: a counter could drift.
local function exceeds_quota(jobs, bytes)
  local job_limit, byte_limit = unpack(redis.call('HMGET', quota, 'jobs', 'bytes'))
  if not (job_limit or byte_limit) then return false end
  for _, id in ipairs(redis.call('ZRANGE', submissions, 0, -1)) do
    local counts = redis.call('HMGET', namespace .. ':{' .. id .. '}:manifest', 'jobs', 'counted_bytes')
    jobs, bytes = jobs + tonumber(counts[1] or '0'), bytes + tonumber(counts[2] or '0')
  end
  return jobs > (tonumber(job_limit) or math.huge) or bytes > (tonumber(byte_limit) or math.huge)
end

if redis.call('EXISTS', manifest) == 0 then remove_frame(staged) remove_frame(sets) return 'gone' end
local known = redis.call('HGET', chunk_index, chunk)
if known then
  remove_frame(staged)
  return known == entry and 'duplicate' or 'different'
end
local state = redis.call('HGET', manifest, 'state')
if state ~= 'open' then remove_frame(staged) return state end
local has_new_sets = digest ~= '' and redis.call('SISMEMBER', digests, digest) == 0
local bytes = frame_size(staged) + (has_new_sets and frame_size(sets) or 0) + tonumber(results_bytes)
if exceeds_quota(tonumber(job_count), bytes) then
  remove_frame(staged)
  if has_new_sets then remove_frame(sets) end
  return 'quota'
end
if not move_frame(staged, frame, tonumber(parts)) then return 'missing' end
redis.call('HSET', chunk_index, chunk, entry)
redis.call('HSET', enqueued, chunk, lane .. ' ' .. now())
if digest ~= '' then redis.call('SADD', digests, digest) end
redis.call('HINCRBY', manifest, 'jobs', job_count)
redis.call('HINCRBY', manifest, 'chunks', 1)
redis.call('HINCRBY', manifest, 'results_bytes', results_bytes)
redis.call('HINCRBY', manifest, 'counted_bytes', bytes)
for i = 13, #ARGV, 2 do redis.call('APPEND', ids .. ARGV[i], ARGV[i + 1]) end
touch(expiries, submission, ttl)
return 'added'
