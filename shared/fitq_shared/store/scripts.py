"""The Lua scripts of the store: what Redis does in one step, whoever dies in between.

Frames do not pass through them: a script copies its arguments twice, and the append-only file gets them once more. They
are stored under their own keys just before, with a time to live, and a script makes them part of the submission.
"""

from fitq_shared.store.frame_parts import LUA

#: A submission begins, and takes its name if it has one; the id of the one that has the name already wins.
OPEN = """
local manifest, submissions, active, name = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local submission, now, ttl = ARGV[1], ARGV[2], ARGV[3]
if name then
  local holder = redis.call('GET', name)
  if holder and redis.call('ZSCORE', submissions, holder) then return holder end
  redis.call('SET', name, submission)
  if ttl ~= '0' then redis.call('EXPIRE', name, ttl) end
end
redis.call('HSET', manifest, unpack(ARGV, 4))
redis.call('ZADD', submissions, now, submission)
redis.call('SADD', active, submission)
return submission
"""

#: A chunk whose frames were stored just before enters a submission: once, and not at all when the submission was
#: deleted meanwhile or has other jobs under this number, whose frame stays as it is. After the fixed arguments come pairs
#: of a bucket of the id index and its new entries.
ADD_CHUNK = f"""{LUA}
local manifest, index, enqueued, frame, digests, sets, staged = unpack(KEYS)
local chunk, entry, count, message, digest, ids, parts, ttl = unpack(ARGV)
if redis.call('EXISTS', manifest) == 0 then removed(staged) removed(sets) return 'gone' end
local known = redis.call('HGET', index, chunk)
if known then
  removed(staged)
  return known == entry and 'duplicate' or 'different'
end
if not moved(staged, frame, tonumber(parts), ttl) then return 'missing' end
redis.call('HSET', index, chunk, entry)
redis.call('HSET', enqueued, chunk, message)
if digest ~= '' then redis.call('SADD', digests, digest) end
redis.call('HINCRBY', manifest, 'jobs', count)
redis.call('HINCRBY', manifest, 'chunks', 1)
for i = 9, #ARGV, 2 do
  redis.call('APPEND', ids .. ARGV[i], ARGV[i + 1])
  if ttl ~= '0' then redis.call('EXPIRE', ids .. ARGV[i], ttl) end
end
if ttl ~= '0' then for _, key in ipairs({{manifest, index, enqueued, digests}}) do redis.call('EXPIRE', key, ttl) end end
return 'added'
"""

#: A worker takes a chunk, unless it is done, deleted or in other hands.
CLAIM = """
local manifest, committed, attempts, lease, index = unpack(KEYS)
local chunk, worker, seconds = ARGV[1], ARGV[2], ARGV[3]
if redis.call('EXISTS', manifest) == 0 then return {'gone', 0, ''} end
if redis.call('HEXISTS', committed, chunk) == 1 then return {'done', 0, ''} end
local holder = redis.call('GET', lease)
if holder and holder ~= worker then return {'busy', 0, ''} end
redis.call('SET', lease, worker, 'EX', seconds)
redis.call('HSETNX', manifest, 'started_at', ARGV[4])
return {'mine', redis.call('HINCRBY', attempts, chunk, 1), redis.call('HGET', index, chunk) or ''}
"""

#: A worker keeps what it still holds.
RENEW = """
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('EXPIRE', KEYS[1], ARGV[2]) end
return 0
"""

#: The frames of a chunk, staged just before, and its counts go in together, the first time only; its jobs are not
#: needed any more. Frames that are kept as files are not staged.
COMMIT = f"""{LUA}
local manifest, committed, log, lease, enqueued, attempts, index, jobs = unpack(KEYS)
local staged_results, staged_traces, results, traces = unpack(KEYS, 9)
local chunk, attempt, result_parts, trace_parts, fits, seconds, now, ttl = unpack(ARGV)
local exists = redis.call('EXISTS', manifest) == 1
if not exists or redis.call('HEXISTS', committed, chunk) == 1 then
  removed(staged_results)
  removed(staged_traces)
  return exists and 'duplicate' or 'gone'
end
if not moved(staged_traces, traces, tonumber(trace_parts), ttl) then return 'missing' end
if not moved(staged_results, results, tonumber(result_parts), ttl) then return 'missing' end
redis.call('HSET', committed, chunk, attempt)
redis.call('HINCRBY', manifest, 'done_jobs', fits)
redis.call('HINCRBYFLOAT', manifest, 'fit_seconds', seconds)
for i = 9, #ARGV, 2 do redis.call('HINCRBY', manifest, 'status:' .. ARGV[i], ARGV[i + 1]) end
redis.call('XADD', log, '*', 'chunk', chunk, 'jobs', fits, 'attempt', attempt)
redis.call('UNLINK', lease)
removed(jobs)
redis.call('HDEL', enqueued, chunk)
redis.call('HDEL', attempts, chunk)
local done = redis.call('HINCRBY', manifest, 'done_chunks', 1)
if redis.call('HGET', manifest, 'state') == 'closed' and done == tonumber(redis.call('HGET', manifest, 'chunks')) then
  redis.call('HSET', manifest, 'finished_at', now)
end
if ttl ~= '0' then
  for _, key in ipairs({{manifest, committed, log, enqueued, index}}) do redis.call('EXPIRE', key, ttl) end
end
return 'stored'
"""

#: No more jobs come; the submission may be finished already.
CLOSE = """
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('HSET', KEYS[1], 'state', 'closed')
if redis.call('HGET', KEYS[1], 'done_chunks') == redis.call('HGET', KEYS[1], 'chunks') then
  redis.call('HSETNX', KEYS[1], 'finished_at', ARGV[1])
end
return 1
"""
