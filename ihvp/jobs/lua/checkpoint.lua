-- Notes the blob of what the job's next attempt goes on from. The same call again changes nothing.
-- ARGV: id, attempt, digest, whether that is for the job alone: 1 or 0
-- Answers: {'ok', digest of the one before that nothing needs any more, or ''} | {'stale', attempt, state} | {'not_found'}
local job, digest = facts(ARGV[1]), ARGV[3]
if not job then return {'not_found'} end
if not current(job, ARGV[2]) then return {'stale', int(job.attempt), job.state} end
if job.checkpoint == digest then return {'ok', ''} end
redis.call('HSET', job_key(job.id), 'checkpoint', digest, 'revision', int(job.revision + 1))
if ARGV[4] == '1' then
  redis.call('HSET', job_key(job.id), 'alone', '1')
else
  redis.call('HDEL', job_key(job.id), 'alone')
end
refer(cjson.encode({digest}), 1)
if not job.checkpoint then return {'ok', ''} end
refer(cjson.encode({job.checkpoint}), -1)
return {'ok', redis.call('HEXISTS', key('blobs'), job.checkpoint) == 1 and '' or job.checkpoint}
