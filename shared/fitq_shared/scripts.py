"""The Lua scripts of the store: what Redis does in one step, whoever dies in between."""

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

#: A chunk enters a submission: once, and not at all when the submission was deleted meanwhile or has other jobs under its
#: number. After the fixed arguments come pairs of a bucket of the id index and its new entries.
ADD_CHUNK = """
local manifest, index, enqueued, frame, digests, sets, ids = unpack(KEYS)
local chunk, entry, jobs, count, message, digest, shared, ttl = unpack(ARGV)
if redis.call('EXISTS', manifest) == 0 then return 'gone' end
local known = redis.call('HGET', index, chunk)
if known then return known == entry and 'duplicate' or 'different' end
redis.call('SET', frame, jobs)
redis.call('HSET', index, chunk, entry)
redis.call('HSET', enqueued, chunk, message)
if digest ~= '' and redis.call('SADD', digests, digest) == 1 then redis.call('SET', sets, shared) end
redis.call('HINCRBY', manifest, 'jobs', count)
redis.call('HINCRBY', manifest, 'chunks', 1)
for i = 9, #ARGV, 2 do
  redis.call('APPEND', ids .. ARGV[i], ARGV[i + 1])
  if ttl ~= '0' then redis.call('EXPIRE', ids .. ARGV[i], ttl) end
end
if ttl ~= '0' then for i = 1, 6 do redis.call('EXPIRE', KEYS[i], ttl) end end
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

#: The frames of a chunk and its counts go in together, the first time only; its jobs are not needed any more.
COMMIT = """
local manifest, committed, results, traces, log, lease, enqueued, attempts, index, frame = unpack(KEYS)
local chunk, attempt, result, trace, jobs, seconds, now, ttl = unpack(ARGV)
if redis.call('EXISTS', manifest) == 0 then return 'gone' end
if redis.call('HSETNX', committed, chunk, attempt) == 0 then return 'duplicate' end
if result ~= '' then redis.call('SET', results, result) end
if trace ~= '' then redis.call('SET', traces, trace) end
redis.call('HINCRBY', manifest, 'done_jobs', jobs)
redis.call('HINCRBYFLOAT', manifest, 'fit_seconds', seconds)
for i = 9, #ARGV, 2 do redis.call('HINCRBY', manifest, 'status:' .. ARGV[i], ARGV[i + 1]) end
redis.call('XADD', log, '*', 'chunk', chunk, 'jobs', jobs, 'attempt', attempt)
redis.call('UNLINK', lease, frame)
redis.call('HDEL', enqueued, chunk)
redis.call('HDEL', attempts, chunk)
local done = redis.call('HINCRBY', manifest, 'done_chunks', 1)
if redis.call('HGET', manifest, 'state') == 'closed' and done == tonumber(redis.call('HGET', manifest, 'chunks')) then
  redis.call('HSET', manifest, 'finished_at', now)
end
if ttl ~= '0' then for _, key in ipairs(KEYS) do redis.call('EXPIRE', key, ttl) end end
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
