-- Take a chunk for a worker, unless it is done, deleted, cancelled or another worker's. It counts as started until it is given back.
-- A cancelled submission still has its retries fitted.
-- KEYS  manifest, committed, attempts, starts, lease, chunk_index, enqueued, trials, retries
-- ARGV  chunk, worker, lease in seconds
-- Returns what became of it ('mine', 'busy', 'done' or 'gone'), which attempt this is, how often the chunk was started and
-- not given back, its entry in the index, the lane and time of its last message, and what is noted of earlier starts.
local manifest, committed, attempts, starts, lease, chunk_index, enqueued, trials, retries = unpack(KEYS)
local chunk, worker, seconds = unpack(ARGV)
local state = redis.call('HGET', manifest, 'state')
local entry = redis.call('HGET', chunk_index, chunk)
if not state or not entry then return {'gone', 0, 0, '', '', ''} end
if state == 'cancelled' and redis.call('HEXISTS', retries, chunk) == 0 then return {'gone', 0, 0, '', '', ''} end
if redis.call('HEXISTS', committed, chunk) == 1 then return {'done', 0, 0, '', '', ''} end
local holder = redis.call('GET', lease)
if holder and holder ~= worker then return {'busy', 0, 0, '', '', ''} end
redis.call('SET', lease, worker, 'EX', seconds)
redis.call('HSETNX', manifest, 'started_at', now())
return {
  'mine',
  redis.call('HINCRBY', attempts, chunk, 1),
  redis.call('HINCRBY', starts, chunk, 1),
  entry,
  redis.call('HGET', enqueued, chunk) or '',
  redis.call('HGET', trials, chunk) or '',
}
