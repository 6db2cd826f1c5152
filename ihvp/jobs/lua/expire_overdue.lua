-- Ends jobs past their deadline: queued ones at once, running ones a while later, for their worker may still stop
-- and keep what it has reached. So it ends running ones that were cancelled that long ago.
-- ARGV: grace of running jobs in µs, most at once, event limit. Answers: {'ok', id, ...}
local now, grace, answer = clock(), tonumber(ARGV[1]), {'ok'}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', key('cancels'), '-inf', '(' .. int(now - grace), 'LIMIT', 0, ARGV[2])) do
  give_up_on(facts(id), now, ARGV[3])
  answer[#answer + 1] = id
end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', key('deadlines'), '-inf', '(' .. int(now), 'LIMIT', 0, ARGV[2])) do
  local job = facts(id)
  local running = job.state == 'running'
  if not running or now > job.deadline + grace then
    if running then
      give_up_on(job, now, ARGV[3])
    else
      move(job, 'expired', now, ARGV[3])
    end
    answer[#answer + 1] = id
  end
end
return answer
