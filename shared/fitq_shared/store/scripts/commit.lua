-- Store the frames of a chunk, staged just before, and count its fits: both or neither, and the first time only. The job
-- frame is not needed any more. Frames that are kept as files have no parts here.
-- KEYS  manifest, committed, log, lease, enqueued, attempts, chunk_index, job frame,
--       staged result frame, staged trace frame, result frame, trace frame
-- ARGV  chunk, attempt, parts of the result frame, parts of the trace frame, number of jobs, seconds of work, now,
--       ttl in seconds ('0': for ever), then statuses and the numbers of their fits in turn
-- Returns 'stored', 'duplicate', 'gone' (no submission) or 'missing' (a part of a staged frame).
local manifest, committed, log, lease, enqueued, attempts, chunk_index, jobs = unpack(KEYS)
local staged_results, staged_traces, results, traces = unpack(KEYS, 9)
local chunk, attempt, result_parts, trace_parts, job_count, seconds, now, ttl = unpack(ARGV)
local exists = redis.call('EXISTS', manifest) == 1
if not exists or redis.call('HEXISTS', committed, chunk) == 1 then
  remove_frame(staged_results)
  remove_frame(staged_traces)
  return exists and 'duplicate' or 'gone'
end
if not move_frame(staged_traces, traces, tonumber(trace_parts), ttl) then return 'missing' end
if not move_frame(staged_results, results, tonumber(result_parts), ttl) then return 'missing' end
redis.call('HSET', committed, chunk, attempt)
redis.call('HINCRBY', manifest, 'done_jobs', job_count)
redis.call('HINCRBYFLOAT', manifest, 'fit_seconds', seconds)
for i = 9, #ARGV, 2 do redis.call('HINCRBY', manifest, 'status:' .. ARGV[i], ARGV[i + 1]) end
redis.call('XADD', log, '*', 'chunk', chunk, 'jobs', job_count, 'attempt', attempt)
redis.call('UNLINK', lease)
remove_frame(jobs)
redis.call('HDEL', enqueued, chunk)
redis.call('HDEL', attempts, chunk)
local done = redis.call('HINCRBY', manifest, 'done_chunks', 1)
if redis.call('HGET', manifest, 'state') == 'closed' and done == tonumber(redis.call('HGET', manifest, 'chunks')) then
  redis.call('HSET', manifest, 'finished_at', now)
end
if ttl ~= '0' then
  for _, key in ipairs({manifest, committed, log, enqueued, chunk_index}) do redis.call('EXPIRE', key, ttl) end
end
return 'stored'
