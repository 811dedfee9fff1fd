-- Take a chunk for a worker, unless it is done, deleted or another worker's.
-- KEYS  manifest, committed, attempts, lease, chunk_index
-- ARGV  chunk, worker, lease in seconds, now
-- Returns what became of it ('mine', 'busy', 'done' or 'gone'), which attempt this is, and the chunk's entry in the index.
local manifest, committed, attempts, lease, chunk_index = unpack(KEYS)
local chunk, worker, seconds, now = unpack(ARGV)
if redis.call('EXISTS', manifest) == 0 then return {'gone', 0, ''} end
if redis.call('HEXISTS', committed, chunk) == 1 then return {'done', 0, ''} end
local holder = redis.call('GET', lease)
if holder and holder ~= worker then return {'busy', 0, ''} end
redis.call('SET', lease, worker, 'EX', seconds)
redis.call('HSETNX', manifest, 'started_at', now)
return {'mine', redis.call('HINCRBY', attempts, chunk, 1), redis.call('HGET', chunk_index, chunk) or ''}
