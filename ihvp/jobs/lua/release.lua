-- Gives a running job back to its old place in the queue; no loss is counted.
-- ARGV: id, attempt, op, event limit
-- Answers: {'ok'} | {'stale', attempt, state} | {'not_found'}
local job = facts(ARGV[1])
if not job then return {'not_found'} end
if job.op == ARGV[3] then return {'ok'} end
if not current(job, ARGV[2]) then return {'stale', int(job.attempt), job.state} end
count('jobs_released')
move(job, job.cancel and 'cancelled' or 'queued', clock(), ARGV[4], {'op', ARGV[3]})
return {'ok'}
