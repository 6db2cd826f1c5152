-- Removes a finished job with all that is kept about it.
-- ARGV: id, tenant or ''
-- Answers: {'ok', µs since it ended, digest of a blob of its result that no job needs any more and no other tenant has, ...}
--   | {'not_found'} | {'not_finished', state}
local job = facts(ARGV[1])
if not job or not may_see(ARGV[2], job.tenant) then return {'not_found'} end
if not finished(job.state) then return {'not_finished', job.state} end
local ended = tonumber(redis.call('HGET', job_key(job.id), 'finished'))
remove(job)
local answer = {'ok', int(clock() - ended)}
for _, digest in ipairs(job.yields and cjson.decode(job.yields) or {}) do
  if redis.call('HEXISTS', key('blobs'), digest) == 0 and not held_by_another(job.tenant, digest) then
    answer[#answer + 1] = digest
  end
end
return answer
