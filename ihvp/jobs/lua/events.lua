-- Events after a position. ARGV: id, position, limit. Answers: {'ok', entries} | {'not_found'}
if redis.call('EXISTS', job_key(ARGV[1])) == 0 then return {'not_found'} end
-- The server refuses to look after the last id there can be.
if ARGV[2] == '18446744073709551615-18446744073709551615' then return {'ok', {}} end
return {'ok', redis.call('XRANGE', key('events:' .. ARGV[1]), '(' .. ARGV[2], '+', 'COUNT', ARGV[3])}
