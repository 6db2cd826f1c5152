-- Forgets jobs that ended long ago, with all that is kept about them.
-- ARGV: age in µs, most at once. Answers: {'ok', id, ...}
local oldest_kept, answer = clock() - tonumber(ARGV[1]), {'ok'}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', key('ended'), '-inf', '(' .. int(oldest_kept), 'LIMIT', 0, ARGV[2])) do
  remove(facts(id))
  answer[#answer + 1] = id
end
return answer
