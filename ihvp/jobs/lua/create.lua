-- Puts a new job into the queue. The same call again answers with the job that it made.
-- ARGV: id, request, method, model or '', tags, needs, deadline in µs from now or '', head start in µs, event limit,
--   priority, digest of what makes jobs alike, right-hand sides, numbers in them,
--   digest of the key it is made under or '', fingerprint, ms for which the key is kept, most jobs that may wait or 0,
--   µs back in which ended jobs count, JSON of where it comes from: request_id, trace, predicted in µs,
--   and the blob that was stored for it: {digest, bytes}; age in µs from which a worker counts as gone, tenant,
--   most jobs of the tenant that may wait or 0,
--   events that its webhook is told, as JSON, or '', the webhook's URL and host, system
-- Answers: {'ok', id, fields, {place, start, end, why unknown}} | {'exists'} | {'other_request', id} | {'not_found'} | {'queue_full', waiting, ended lately} | {'own_full', waiting, most}
local id, request, limit = ARGV[1], ARGV[2], ARGV[9]
local tenant = ARGV[21]
local there = redis.call('HMGET', job_key(id), 'request', 'tenant')
if there[1] then
  if there[1] == request and may_see(tenant, there[2] or nil) then return placed(record(id), ARGV[20]) end
  return {'exists'}
end
local made = made_once(ARGV[14], ARGV[15])
if made then return placed(made, ARGV[20]) end
local now = clock()
local most = tonumber(ARGV[17])
if most > 0 then
  local waiting = redis.call('ZCARD', key('queue'))
  if waiting >= most then
    return {'queue_full', waiting, redis.call('ZCOUNT', key('results'), int(now - tonumber(ARGV[18])), '+inf')}
  end
end
claim_schema()
settle(tenant)
local own = redis.call('ZCARD', tenant_key(tenant, 'jobs:queued'))
if tonumber(ARGV[22]) > 0 and own >= tonumber(ARGV[22]) then return {'own_full', own, ARGV[22]} end
local last = redis.call('ZRANGE', key('jobs'), -1, -1, 'WITHSCORES')[2]
-- No two jobs share their created time, so that it alone orders them and serves as the cursor of a listing.
local created = math.max(now, last and tonumber(last) + 1 or 0)
local job = {id = id, score = created - tonumber(ARGV[8]), priority = ARGV[10], alike = ARGV[11], losses = 0}
redis.call('HSET', job_key(id), 'request', request, 'method', ARGV[3], 'model', ARGV[4], 'tags', ARGV[5],
  'needs', ARGV[6], 'created', int(created), 'score', int(job.score), 'state', 'queued', 'revision', '1', 'attempt', '0',
  'losses', '0', 'priority', job.priority, 'alike', job.alike, 'columns', ARGV[12],
  'numbers', ARGV[13], 'tenant', tenant, 'system', ARGV[26])
redis.call('ZADD', key('jobs'), int(created), id)
redis.call('ZADD', key('jobs:queued'), int(created), id)
redis.call('ZADD', tenant_key(tenant, 'jobs'), int(created), id)
redis.call('ZADD', tenant_key(tenant, 'jobs:queued'), int(created), id)
if ARGV[23] ~= '' then
  redis.call('HSET', job_key(id), 'hook_events', ARGV[23], 'hook_url', ARGV[24], 'hook_host', ARGV[25])
end
if ARGV[7] ~= '' then
  job.deadline = created + tonumber(ARGV[7])
  redis.call('HSET', job_key(id), 'deadline', int(job.deadline))
  redis.call('ZADD', key('deadlines'), int(job.deadline), id)
end
if ARGV[14] ~= '' then
  redis.call('HSET', key('once:' .. ARGV[14]), 'job', id, 'fingerprint', ARGV[15])
  redis.call('PEXPIRE', key('once:' .. ARGV[14]), ARGV[16])
end
local origin = cjson.decode(ARGV[19])
for _, name in ipairs({'request_id', 'trace'}) do
  if origin[name] then redis.call('HSET', job_key(id), name, origin[name]) end
end
if origin.predicted then
  job.predicted = origin.predicted
  redis.call('HSET', job_key(id), 'predicted', int(job.predicted))
end
enqueue(job, now)
refer(ARGV[6], 1)
if origin.brings then hold(tenant, origin.brings[1], int(origin.brings[2])) end
count('jobs_submitted', ARGV[3])
-- Not announced: nobody waits yet for a job that was not there.
append(id, limit, 'state', '{"state":"queued","attempt":0,"revision":1}')
local place = places(now, ARGV[20])(id)
if place[2] ~= '' or place[3] ~= '' then
  local function known(stamp) return stamp == '' and '-' or stamp end
  redis.call('HSET', job_key(id), 'expected', known(place[2]) .. ' ' .. known(place[3]))
end
local answer = record(id)
answer[4] = place
return answer
