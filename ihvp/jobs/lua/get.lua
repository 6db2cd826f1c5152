-- One job. ARGV: id. Answers: record | {'not_found'}
if redis.call('EXISTS', job_key(ARGV[1])) == 0 then return {'not_found'} end
return record(ARGV[1])
