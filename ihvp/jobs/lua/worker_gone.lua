-- Forgets a worker. ARGV: worker. Answers: {'ok'}
redis.call('ZREM', key('workers'), ARGV[1])
redis.call('HDEL', key('claims'), ARGV[1])
redis.call('HDEL', key('proofs'), ARGV[1])
redis.call('HDEL', key('vitals'), ARGV[1])
return {'ok'}
