-- Ends jobs past their deadline: queued ones at once, running ones a while later, for their worker may still stop
-- and keep what it has reached.
-- ARGV: grace of running jobs in µs, most at once, event limit. Answers: {'ok', id, ...}
local now, grace, answer = clock(), tonumber(ARGV[1]), {'ok'}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', key('deadlines'), '-inf', '(' .. int(now), 'LIMIT', 0, ARGV[2])) do
  local job = facts(id)
  if job.state == 'queued' or now > job.deadline + grace then
    move(job, job.cancel and 'cancelled' or 'expired', now, ARGV[3])
    answer[#answer + 1] = id
  end
end
return answer
