-- One delivery. ARGV: tenant, id. Answers: {'ok', record} | {'not_found'}
if not own(ARGV[1], ARGV[2]) then return {'not_found'} end
return {'ok', record(ARGV[2])}
