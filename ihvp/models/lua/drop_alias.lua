-- Takes an alias away. ARGV: tenant, name, alias. Answers: {latest version (0: no such name), how many were taken away}
return {redis.call('HLEN', model_key(ARGV[2])), redis.call('HDEL', aliases_key(ARGV[2]), ARGV[3])}
