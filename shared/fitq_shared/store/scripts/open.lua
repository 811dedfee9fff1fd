-- Begin a submission and give it its name, if it has one. The submission that has the name already keeps it.
-- KEYS  manifest, submissions, active, expiries, and the name's key if there is a name
-- ARGV  submission, ttl in seconds ('0': for ever), then the fields of the manifest and their values in turn
-- Returns the id of the submission that has the name: this one or the earlier one.
local manifest, submissions, active, expiries, name = unpack(KEYS)
local submission, ttl = unpack(ARGV)
if name then
  local holder = redis.call('GET', name)
  if holder and redis.call('ZSCORE', submissions, holder) then return holder end
  redis.call('SET', name, submission)
end
redis.call('HSET', manifest, 'created_at', now(), unpack(ARGV, 3))
redis.call('ZADD', submissions, now(), submission)
redis.call('SADD', active, submission)
if ttl ~= '0' then redis.call('ZADD', expiries, tonumber(now()) + tonumber(ttl), submission) end
return submission
