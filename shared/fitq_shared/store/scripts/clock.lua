-- Functions for all scripts. Time is the server's: clocks of clients and workers differ.

local function now()
  local seconds, micros = unpack(redis.call('TIME'))
  return string.format('%d.%06d', seconds, micros)
end

-- Note that a submission changed now: it lives for another `ttl` seconds ('0': for ever).
local function touch(expiries, submission, ttl)
  if ttl ~= '0' then redis.call('ZADD', expiries, 'XX', tonumber(now()) + tonumber(ttl), submission) end
end
