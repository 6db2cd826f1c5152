-- A key, and whether there are any. ARGV: id or ''. Answers: {1 or 0, record or {}}
return {redis.call('EXISTS', keys_key()), key_record(ARGV[1])}
