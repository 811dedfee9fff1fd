-- Store the frames of a chunk, staged just before, and count its fits: both or neither, and the first time only. The job
-- frame is not needed any more; of fits that may be wanted again the staged frame of kept jobs has what is. Frames that are
-- kept as files have no parts here. Fits of a retry take the place of earlier ones in the counts.
-- KEYS  manifest, committed, log, lease, enqueued, attempts, starts, trials, job frame, chunk_index, retries, expiries,
--       staged frames of results, traces and kept jobs, the same frames in their places
-- ARGV  submission, chunk, attempt, its entry in committed, parts of the three frames, number of jobs, seconds of work, ttl in
--       seconds ('0': for ever), then statuses and the numbers of their fits in turn
-- Returns 'stored', 'duplicate', 'gone' (no submission, a cancelled one, or a retry that was ended) or 'missing' (a part of a
-- staged frame).
local manifest, committed, log, lease, enqueued, attempts, starts, trials = unpack(KEYS)
local jobs, chunk_index, retries, expiries = unpack(KEYS, 9)
local submission, chunk, attempt, entry = unpack(ARGV)
local job_count, seconds, ttl = unpack(ARGV, 8)
local state, retry = redis.call('HGET', manifest, 'state'), redis.call('HGET', retries, chunk)
local done = redis.call('HEXISTS', committed, chunk) == 1
local exists = state and (state ~= 'cancelled' or retry) and redis.call('HEXISTS', chunk_index, chunk) == 1
if not exists or done then
  for n = 13, 15 do remove_frame(KEYS[n]) end
  return exists and 'duplicate' or 'gone'
end
for n = 3, 1, -1 do
  if not move_frame(KEYS[12 + n], KEYS[15 + n], tonumber(ARGV[4 + n])) then return 'missing' end
end

local function count(status, fits)
  if redis.call('HINCRBY', manifest, 'status:' .. status, fits) == 0 then redis.call('HDEL', manifest, 'status:' .. status) end
end

redis.call('HSET', committed, chunk, entry)
redis.call('HINCRBYFLOAT', manifest, 'fit_seconds', seconds)
for i = 11, #ARGV, 2 do count(ARGV[i], ARGV[i + 1]) end
redis.call('UNLINK', lease)
remove_frame(jobs)
redis.call('HDEL', enqueued, chunk)
redis.call('HDEL', attempts, chunk)
redis.call('HDEL', starts, chunk)
redis.call('HDEL', trials, chunk)
if retry then
  local before = cjson.decode(retry)
  for status, fits in pairs(before.statuses) do count(status, -fits) end
  redis.call('XADD', log, '*', 'chunk', chunk, 'jobs', job_count, 'attempt', attempt, 'replaces', before.chunks)
  redis.call('HDEL', retries, chunk)
  redis.call('HINCRBY', manifest, 'retrying', -before.jobs)
else
  redis.call('XADD', log, '*', 'chunk', chunk, 'jobs', job_count, 'attempt', attempt)
  redis.call('HINCRBY', manifest, 'done_jobs', job_count)
  local chunks = tonumber(redis.call('HGET', manifest, 'chunks'))
  if redis.call('HINCRBY', manifest, 'done_chunks', 1) == chunks and state == 'closed' then
    redis.call('HSET', manifest, 'finished_at', now())
  end
end
touch(expiries, submission, ttl)
return 'stored'
