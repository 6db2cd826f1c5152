-- Keeps a new key. ARGV: id, spec, µs from now after which it expires or ''. Answers: record
local id, at = ARGV[1], now()
redis.call('HSET', key_key(id), 'spec', ARGV[2], 'created', at)
if ARGV[3] ~= '' then redis.call('HSET', key_key(id), 'expires', string.format('%.0f', tonumber(at) + tonumber(ARGV[3]))) end
redis.call('ZADD', keys_key(), at, id)
return key_record(id)
