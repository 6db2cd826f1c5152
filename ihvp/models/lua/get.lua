-- A version, or the latest. ARGV: tenant, name, version or ''. Answers: {latest version (0: no such name), version, record or nil}
local name, version = ARGV[2], tonumber(ARGV[3])
local newest = redis.call('HLEN', model_key(name))
version = version or newest
return {newest, version, redis.call('HGET', model_key(name), version)}
