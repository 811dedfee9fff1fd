-- Add a chunk of jobs that were fitted before, whose frame was stored just before, to a submission that has all its jobs. The
-- results that there are stay until its own are committed.
-- KEYS  manifest, chunk_index, enqueued, job frame, digests of shared sets, frame of shared sets, staged job frame, expiries,
--       retries, replaced, active
-- ARGV  submission, chunk, its entry in the index, number of jobs, its lane, digest of shared sets ('': none),
--       prefix of the keys of the id index, parts of the job frame, ttl in seconds ('0': for ever), what it replaces as JSON,
--       number of earlier chunks; of each of these its number, the length of its value in `replaced` as the client knows it,
--       and what is added to that; then buckets of the id index and their new entries in turn
-- Returns 'added', 'duplicate', 'taken' (another retry has this number), 'changed' (another retry has jobs of these chunks),
-- 'open' (jobs are still being added), 'gone' (no submission) or 'missing' (a part of the staged frame).
local manifest, chunk_index, enqueued, frame, digests, sets, staged, expiries, retries, replaced, active = unpack(KEYS)
local submission, chunk, entry, job_count, lane, digest, ids, parts, ttl, retry, earlier = unpack(ARGV, 1, 11)
local last = 11 + 3 * tonumber(earlier)
local function refuse(verdict) remove_frame(staged) return verdict end

if redis.call('EXISTS', manifest) == 0 then remove_frame(sets) return refuse('gone') end
-- The sets were stored already, and go with the submission whatever becomes of this chunk.
if digest ~= '' then redis.call('SADD', digests, digest) end
if redis.call('HGET', chunk_index, chunk) == entry then return refuse('duplicate') end
local state, chunks, before = unpack(redis.call('HMGET', manifest, 'state', 'chunks', 'retry_chunks'))
if state == 'open' then return refuse('open') end
if tonumber(chunk) ~= tonumber(chunks) + tonumber(before or 0) then return refuse('taken') end
for i = 12, last, 3 do
  if #(redis.call('HGET', replaced, ARGV[i]) or '') ~= tonumber(ARGV[i + 1]) then return refuse('changed') end
end
if not move_frame(staged, frame, tonumber(parts)) then return 'missing' end

for i = 12, last, 3 do
  redis.call('HSET', replaced, ARGV[i], (redis.call('HGET', replaced, ARGV[i]) or '') .. ARGV[i + 2])
end
for i = last + 1, #ARGV, 2 do redis.call('APPEND', ids .. ARGV[i], ARGV[i + 1]) end
redis.call('HSET', retries, chunk, retry)
redis.call('HSET', chunk_index, chunk, entry)
redis.call('HSET', enqueued, chunk, lane .. ' ' .. now())
redis.call('HINCRBY', manifest, 'retry_chunks', 1)
redis.call('HINCRBY', manifest, 'retrying', job_count)
redis.call('SADD', active, submission)
touch(expiries, submission, ttl)
return 'added'
