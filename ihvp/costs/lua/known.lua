-- What tells about a model. ARGV: '<digest>:<curvature>'. Answers: {its observations, recent ones of any model}
return {redis.call('LRANGE', observed(ARGV[1]), 0, -1), redis.call('LRANGE', key('costs-recent'), 0, -1)}
