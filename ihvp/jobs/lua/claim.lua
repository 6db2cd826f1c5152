-- Gives the best waiting job to an owner. The same call again answers with the job that it gave.
-- ARGV: owner, lease in µs, op, event limit
-- Answers: record | {'none'}
local owner, lease, op, limit = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4]
local last = redis.call('HGET', key('claims'), owner)
if last and string.sub(last, 1, #op + 1) == op .. ' ' then
  local id = string.sub(last, #op + 2)
  local job = facts(id)
  if job and job.state == 'running' and job.owner == owner then return record(id) end
end
local now = clock()
while true do
  local id = redis.call('ZRANGE', key('queue'), 0, 0)[1]
  if not id then return {'none'} end
  local job = facts(id)
  if job.deadline and now > job.deadline then
    move(job, 'expired', now, limit)
  else
    job.attempt = job.attempt + 1
    redis.call('ZADD', key('leases'), int(now + lease), id)
    redis.call('HSET', key('claims'), owner, op .. ' ' .. id)
    move(job, 'running', now, limit, {'attempt', int(job.attempt), 'owner', owner, 'started', int(now)})
    return record(id)
  end
end
