-- How far predictions were off. Answers: {'<method>:<bucket>', count, ...}
return redis.call('HGETALL', key('costs-errors'))
