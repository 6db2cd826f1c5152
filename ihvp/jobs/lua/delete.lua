-- Removes a finished job with all that is kept about it.
-- ARGV: id. Answers: {'ok'} | {'not_found'} | {'not_finished', state}
local job = facts(ARGV[1])
if not job then return {'not_found'} end
if not finished(job.state) then return {'not_finished', job.state} end
remove(job)
return {'ok'}
