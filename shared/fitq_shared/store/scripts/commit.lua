-- Store the frames of a chunk, staged just before, and count its fits: both or neither, and the first time only. The job
-- frame is not needed any more. Frames that are kept as files have no parts here.
-- KEYS  manifest, committed, log, lease, enqueued, attempts, starts, trials, job frame,
--       staged result frame, staged trace frame, result frame, trace frame, expiries
-- ARGV  submission, chunk, attempt, its entry in committed, parts of the result frame, parts of the trace frame, number of
--       jobs, seconds of work, ttl in seconds ('0': for ever), then statuses and the numbers of their fits in turn
-- Returns 'stored', 'duplicate', 'gone' (no submission, or a cancelled one) or 'missing' (a part of a staged frame).
local manifest, committed, log, lease, enqueued, attempts, starts, trials, jobs = unpack(KEYS)
local staged_results, staged_traces, results, traces, expiries = unpack(KEYS, 10)
local submission, chunk, attempt, entry, result_parts, trace_parts, job_count, seconds, ttl = unpack(ARGV)
local state = redis.call('HGET', manifest, 'state')
local exists = state and state ~= 'cancelled'
if not exists or redis.call('HEXISTS', committed, chunk) == 1 then
  remove_frame(staged_results)
  remove_frame(staged_traces)
  return exists and 'duplicate' or 'gone'
end
if not move_frame(staged_traces, traces, tonumber(trace_parts)) then return 'missing' end
if not move_frame(staged_results, results, tonumber(result_parts)) then return 'missing' end
redis.call('HSET', committed, chunk, entry)
redis.call('HINCRBY', manifest, 'done_jobs', job_count)
redis.call('HINCRBYFLOAT', manifest, 'fit_seconds', seconds)
for i = 10, #ARGV, 2 do redis.call('HINCRBY', manifest, 'status:' .. ARGV[i], ARGV[i + 1]) end
redis.call('XADD', log, '*', 'chunk', chunk, 'jobs', job_count, 'attempt', attempt)
redis.call('UNLINK', lease)
remove_frame(jobs)
redis.call('HDEL', enqueued, chunk)
redis.call('HDEL', attempts, chunk)
redis.call('HDEL', starts, chunk)
redis.call('HDEL', trials, chunk)
local done = redis.call('HINCRBY', manifest, 'done_chunks', 1)
if redis.call('HGET', manifest, 'state') == 'closed' and done == tonumber(redis.call('HGET', manifest, 'chunks')) then
  redis.call('HSET', manifest, 'finished_at', now())
end
touch(expiries, submission, ttl)
return 'stored'
