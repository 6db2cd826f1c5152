-- One job. ARGV: id, tenant or ''. Answers: record | {'not_found'}
if not sees(ARGV[2], ARGV[1]) then return {'not_found'} end
return record(ARGV[1])
