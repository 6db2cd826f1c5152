-- Has a key open nothing any more. ARGV: id. Answers: record or {}
if redis.call('EXISTS', key_key(ARGV[1])) == 1 then redis.call('HSETNX', key_key(ARGV[1]), 'revoked', now()) end
return key_record(ARGV[1])
