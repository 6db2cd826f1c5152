-- Notes that a worker lives, and takes over what it has counted, once a mark.
-- ARGV: worker, age in µs from which silent ones are forgotten, mark or '', its counts, JSON of mark and gauges
-- Answers: {'ok'}
local now = clock()
redis.call('ZADD', key('workers'), int(now), ARGV[1])
if ARGV[3] ~= '' then
  local last = redis.call('HGET', key('vitals'), ARGV[1])
  if not last or cjson.decode(last).mark ~= ARGV[3] then count_all(ARGV[4], '') end
  redis.call('HSET', key('vitals'), ARGV[1], ARGV[5])
end
for _, silent in ipairs(redis.call('ZRANGEBYSCORE', key('workers'), '-inf', '(' .. int(now - tonumber(ARGV[2])))) do
  redis.call('ZREM', key('workers'), silent)
  redis.call('HDEL', key('claims'), silent)
  redis.call('HDEL', key('proofs'), silent)
  redis.call('HDEL', key('vitals'), silent)
end
return {'ok'}
