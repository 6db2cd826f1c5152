-- Keeps an observation.
-- ARGV: '<digest>:<curvature>', observation, '<method>:<bucket>' or '', bounds: a model's, recent ones, models.
-- Answers: 1
local model, observation, error_field = ARGV[1], ARGV[2], ARGV[3]
redis.call('LPUSH', observed(model), observation)
redis.call('LTRIM', observed(model), 0, ARGV[4] - 1)
redis.call('LPUSH', key('costs-recent'), observation)
redis.call('LTRIM', key('costs-recent'), 0, ARGV[5] - 1)
local time = redis.call('TIME')
redis.call('ZADD', key('costs'), string.format('%s.%06d', time[1], tonumber(time[2])), model)
local surplus = redis.call('ZCARD', key('costs')) - ARGV[6]
if surplus > 0 then
  for _, oldest in ipairs(redis.call('ZRANGE', key('costs'), 0, surplus - 1)) do
    redis.call('ZREM', key('costs'), oldest)
    redis.call('DEL', observed(oldest))
  end
end
if error_field ~= '' then redis.call('HINCRBY', key('costs-errors'), error_field, 1) end
return 1
