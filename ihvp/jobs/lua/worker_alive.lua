-- Notes that a worker lives. ARGV: worker, age in µs from which silent ones are forgotten. Answers: {'ok'}
local now = clock()
redis.call('ZADD', key('workers'), int(now), ARGV[1])
for _, silent in ipairs(redis.call('ZRANGEBYSCORE', key('workers'), '-inf', '(' .. int(now - tonumber(ARGV[2])))) do
  redis.call('ZREM', key('workers'), silent)
  redis.call('HDEL', key('claims'), silent)
end
return {'ok'}
