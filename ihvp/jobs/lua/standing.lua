-- What tells whether a job's record has changed, without the record. ARGV: id,
--   age in µs from which a worker counts as gone, tenant or ''
-- Answers: {'ok', state, revision, {place, start, end, why unknown} or {}} | {'not_found'}
local seen = redis.call('HMGET', job_key(ARGV[1]), 'state', 'revision', 'tenant')
if not seen[1] or not may_see(ARGV[3], seen[3] or nil) then return {'not_found'} end
local place = seen[1] == 'queued' and places(clock(), ARGV[2])(ARGV[1]) or {}
return {'ok', seen[1], seen[2], place}
