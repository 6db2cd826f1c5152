-- Notes when a key was used last. ARGV: id
if redis.call('EXISTS', key_key(ARGV[1])) == 1 then redis.call('HSET', key_key(ARGV[1]), 'used', now()) end
return 1
