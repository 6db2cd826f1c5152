-- Forgets the results of jobs that ended long ago; the jobs stay.
-- ARGV: age in µs, most at once. Answers: {'ok', id, ...}
local oldest_kept, answer = clock() - tonumber(ARGV[1]), {'ok'}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', key('results'), '-inf', '(' .. int(oldest_kept), 'LIMIT', 0, ARGV[2])) do
  refer(redis.call('HGET', job_key(id), 'yields'), -1)
  redis.call('HSET', job_key(id), 'removed', '1')
  redis.call('HINCRBY', job_key(id), 'revision', 1)
  redis.call('ZREM', key('results'), id)
  answer[#answer + 1] = id
end
return answer
