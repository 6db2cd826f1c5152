-- What tells whether a job's record has changed, without the record. ARGV: id
-- Answers: {'ok', state, revision, place in the queue or ''} | {'not_found'}
local seen = redis.call('HMGET', job_key(ARGV[1]), 'state', 'revision')
if not seen[1] then return {'not_found'} end
local place = seen[1] == 'queued' and redis.call('ZRANK', key('queue'), ARGV[1])
return {'ok', seen[1], seen[2], place or ''}
