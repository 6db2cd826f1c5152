-- Has an alias stand for a version, if that is there. ARGV: tenant, name, alias, version
-- Answers: {latest version (0: no such name), version, record or nil}
local entry = redis.call('HGET', model_key(ARGV[2]), ARGV[4])
if entry then redis.call('HSET', aliases_key(ARGV[2]), ARGV[3], ARGV[4]) end
return {redis.call('HLEN', model_key(ARGV[2])), tonumber(ARGV[4]), entry}
