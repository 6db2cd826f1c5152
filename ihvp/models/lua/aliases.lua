-- What the aliases of a name stand for. ARGV: tenant, name. Answers: {alias, version, ...}
return redis.call('HGETALL', aliases_key(ARGV[2]))
