-- Ends a running job as its worker says, unless a cancellation was asked for.
-- ARGV: id, attempt, state, result or '', its blobs or '', error or '', op, event limit,
--   what the result adds to the counts, JSON of its blobs' bytes by digest or '', the last of its progress …
-- Answers: record | {'stale', attempt, state} | {'not_found'}
local job, op, limit = facts(ARGV[1]), ARGV[7], ARGV[8]
if not job then return {'not_found'} end
if job.op == op then return record(job.id) end
if not current(job, ARGV[2]) then return {'stale', int(job.attempt), job.state} end
local state, result, yields, err = ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local now, changes = clock(), {'op', op}
if job.cancel then
  state = 'cancelled'
elseif result ~= '' then
  changes = {'op', op, 'result', result, 'yields', yields}
  refer(yields, 1)
  redis.call('ZADD', key('results'), int(now), job.id)
  count_all(ARGV[9], job.method)
  for digest, bytes in pairs(cjson.decode(ARGV[10])) do hold(job.tenant, digest, int(bytes)) end
elseif err ~= '' then
  changes = {'op', op, 'error', err}
end
-- The end is announced with them.
for at = 11, #ARGV do append(job.id, limit, 'progress', ARGV[at]) end
if ARGV[11] then
  table.insert(changes, 'progress')
  table.insert(changes, ARGV[#ARGV])
end
if state == 'succeeded' and job.system then redis.call('SET', key('sound:' .. job.system), '1', 'EX', 86400) end
move(job, state, now, limit, changes)
return record(job.id)
