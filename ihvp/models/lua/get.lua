-- A version, the latest, or that of an alias. ARGV: tenant, name, version or '', alias or ''
-- Answers: {latest version (0: no such name), version (0: no such alias), record or nil}
local name, version = ARGV[2], tonumber(ARGV[3])
local newest = redis.call('HLEN', model_key(name))
if ARGV[4] ~= '' then version = tonumber(redis.call('HGET', aliases_key(name), ARGV[4]) or 0) end
version = version or newest
return {newest, version, redis.call('HGET', model_key(name), version)}
