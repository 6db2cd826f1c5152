-- Takes back every job of an owner that is dead; whoever comes in its name is trusted again. ARGV: owner, max attempts, error, event limit, quarantine in µs
-- Answers: {'ok', {id, state, attempt, request_id or '', trace or ''}, ...}
local now, answer = clock(), {'ok'}
-- As many blocks of jobs run as there are workers, so no index by owner is kept.
for _, id in ipairs(redis.call('ZRANGE', key('leases'), 0, -1)) do
  local job = facts(id)
  if job.owner == ARGV[1] then
    answer[#answer + 1] = reclaim(job, now, ARGV[4], tonumber(ARGV[2]), ARGV[3], 'worker_died', tonumber(ARGV[5]))
  end
end
if is_condemned(ARGV[1]) then redis.call('HDEL', key('claims'), ARGV[1]) end
return answer
