-- Removes a finished job with all that is kept about it.
-- ARGV: id. Answers: {'ok'} | {'not_found'} | {'not_finished', state}
local job = facts(ARGV[1])
if not job then return {'not_found'} end
if not finished(job.state) then return {'not_finished', job.state} end
-- Counted only as long as the result is there; see drop_results.
if redis.call('ZREM', key('results'), job.id) == 1 then refer(job.yields, -1) end
redis.call('ZREM', key('jobs'), job.id)
redis.call('ZREM', key('jobs:' .. job.state), job.id)
redis.call('DEL', job_key(job.id), key('events:' .. job.id))
redis.call('PUBLISH', key('events'), job.id)
return {'ok'}
