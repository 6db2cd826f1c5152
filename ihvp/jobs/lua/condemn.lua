-- Ends an owner's jobs that it did not stop in time after their cancellation or their deadline, and tells whether its process
-- is as good as dead: for these, or for others that were ended so before. See give_up_on.
-- ARGV: owner, grace in µs, most at once, event limit
-- Answers: {'ok', id, ...} | {'none'}
local now, grace, answer = clock(), tonumber(ARGV[2]), {'ok'}
for _, index in ipairs({'cancels', 'deadlines'}) do
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', key(index), '-inf', '(' .. int(now - grace), 'LIMIT', 0, ARGV[3])) do
    local job = facts(id)
    if job.state == 'running' and job.owner == ARGV[1] then
      give_up_on(job, now, ARGV[4])
      answer[#answer + 1] = id
    end
  end
end
return is_condemned(ARGV[1]) and answer or {'none'}
