-- The outbox of webhooks: in front of the scripts that fill it with a job's events, and of those that empty it.
--
--   P:webhooks:delivery:<id>      hash     one delivery
--       job, tenant, type, url, lane, at, created    what is told to whom; never changes
--       record                          JSON list of the job's fields as they were then
--       state                           pending | delivered | dead
--       attempt, round                  how often a sender took it, in all and before its present schedule began
--       due, ended                      times; due is absent once it has ended
--   P:webhooks:tries:<id>         list     JSON of its last tries
--   P:webhooks:due                zset     deliveries that wait for their next try, by when it is due
--   P:webhooks:due:<lane>         zset     the same, of one lane: a tenant and a host
--   P:webhooks:lanes              zset     lanes in which one waits, by when the first is due
--   P:webhooks:leases             zset     deliveries that are being sent, by the end of their sender's lease
--   P:webhooks:busy               hash     lane -> how many of it are being sent
--   P:webhooks:all:<tenant>       zset     a tenant's deliveries by created time, which no two of it share
--   P:webhooks:<state>:<tenant>   zset     the same, of one state
--   P:webhooks:job:<id>           zset     the same, of one job
--   P:webhooks:ended              zset     those that are delivered or dead, by when they ended
--   P:webhooks:counts             hash     tries by outcome; dead_now: how many are dead
--   P:webhooks:secrets:<tenant>   hash     id -> JSON of a secret

local function hook_key(name) return key('webhooks:' .. name) end

-- Has a delivery wait for its next try.
local function rest(id, lane, due)
  redis.call('HSET', hook_key('delivery:' .. id), 'due', int(due))
  redis.call('ZADD', hook_key('due'), int(due), id)
  redis.call('ZADD', hook_key('due:' .. lane), int(due), id)
  redis.call('ZADD', hook_key('lanes'), 'LT', int(due), lane)
end

-- Puts what a job's webhook asks to be told into the outbox. An event of the stream has its own id, and so has a
-- delivery of it: the same for all tries, and never given twice.
local function tell_webhook(job, event, now)
  local wanted = {}
  for _, name in ipairs(cjson.decode(job.hook_events)) do wanted[name] = true end
  local names = {'job.' .. job.state}
  if job.state == 'running' then names = {'job.started'} end
  if finished(job.state) then table.insert(names, 1, 'job.finished') end
  local hook = redis.call('HMGET', job_key(job.id), 'hook_url', 'hook_host')
  local tenant = job.tenant or DEFAULT_TENANT
  for _, name in ipairs(names) do
    if wanted[name] then
      local id = 'msg_' .. string.sub(job.id, 5) .. '_' .. event .. '_' .. string.sub(name, 5)
      local lane = tenant .. '@' .. hook[2]
      local last = redis.call('ZRANGE', hook_key('all:' .. tenant), -1, -1, 'WITHSCORES')[2]
      local created = int(math.max(now, last and tonumber(last) + 1 or 0))
      redis.call('HSET', hook_key('delivery:' .. id), 'job', job.id, 'tenant', tenant, 'type', name, 'url', hook[1],
        'lane', lane, 'at', int(now), 'created', created, 'state', 'pending', 'attempt', '0', 'round', '0',
        'record', cjson.encode(redis.call('HGETALL', job_key(job.id))))
      for _, index in ipairs({'all:' .. tenant, 'pending:' .. tenant, 'job:' .. job.id}) do
        redis.call('ZADD', hook_key(index), created, id)
      end
      rest(id, lane, now)
    end
  end
end
