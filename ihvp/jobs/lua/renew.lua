-- Prolongs a lease. ARGV: id, attempt, lease in µs. Answers: {'ok', what the worker should know}
local job = facts(ARGV[1])
if not current(job, ARGV[2]) then return {'ok', 'lost'} end
local now = clock()
redis.call('ZADD', key('leases'), int(now + tonumber(ARGV[3])), job.id)
return {'ok', advice(job, now)}
