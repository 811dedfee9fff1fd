-- Give back a chunk whose fits were not stored although its worker did not die: this start of it does not count.
-- KEYS  manifest, committed, starts, lease
-- ARGV  chunk, worker
local manifest, committed, starts, lease = unpack(KEYS)
local chunk, worker = unpack(ARGV)
if redis.call('GET', lease) == worker then redis.call('UNLINK', lease) end
if redis.call('EXISTS', manifest) == 0 or redis.call('HEXISTS', committed, chunk) == 1 then return end
if tonumber(redis.call('HGET', starts, chunk) or '0') > 0 then redis.call('HINCRBY', starts, chunk, -1) end
