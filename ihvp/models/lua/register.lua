-- The next version of a name, unless the name has this spec already.
-- ARGV: tenant, name, digest of the spec, record, blob, ...
-- Answers: {created, version, record}
local name, digest = ARGV[2], ARGV[3]
local there = redis.call('HGET', own_key('model-digests:' .. name), digest)
if there then return {0, tonumber(there), redis.call('HGET', model_key(name), there)} end
local version = redis.call('HLEN', model_key(name)) + 1
local time = redis.call('TIME')
local entry = string.format('%s%06d %s', time[1], tonumber(time[2]), ARGV[4])
redis.call('ZADD', own_key('models'), 0, name)
redis.call('HSET', model_key(name), version, entry)
redis.call('HSET', own_key('model-digests:' .. name), digest, version)
for at = 5, #ARGV do redis.call('SADD', key('model-blobs'), ARGV[at]) end
return {1, version, entry}
