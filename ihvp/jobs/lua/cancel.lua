-- Ends a queued job, or marks a running one so that its worker stops.
-- ARGV: id, event limit, tenant or ''
-- Answers: record | {'not_found'} | {'finished', state}
local job = facts(ARGV[1])
if not job or not may_see(ARGV[3], job.tenant) then return {'not_found'} end
if job.state == 'queued' then
  redis.call('HSET', job_key(job.id), 'cancel', '1')
  move(job, 'cancelled', clock(), ARGV[2])
elseif job.state == 'running' then
  if not job.cancel then
    redis.call('HSET', job_key(job.id), 'cancel', '1', 'revision', int(job.revision + 1))
    redis.call('ZADD', key('cancels'), int(clock()), job.id)
    -- Not a move, so no event; those who wait for the job look at it again all the same.
    announce(job.id, job.state)
  end
elseif job.state ~= 'cancelled' then
  return {'finished', job.state}
end
return record(job.id)
