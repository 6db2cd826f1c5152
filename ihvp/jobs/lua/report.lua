-- Records progress as an event. ARGV: id, attempt, progress, op, event limit, µs that are left or ''
-- Answers: {'ok', what the worker should know}
local job = facts(ARGV[1])
if not current(job, ARGV[2]) then return {'ok', 'lost'} end
if job.op ~= ARGV[4] then
  redis.call('HSET', job_key(job.id), 'progress', ARGV[3], 'revision', int(job.revision + 1), 'op', ARGV[4])
  append(job.id, ARGV[5], 'progress', ARGV[3])
  announce(job.id, job.state)
  if job.block then expect_end(job, clock(), tonumber(ARGV[6])) end
end
return {'ok', advice(job, clock())}
