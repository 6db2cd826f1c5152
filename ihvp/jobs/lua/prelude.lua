-- In front of every job script: key layout, clock, and the one way a job changes its state.
--
-- KEYS[1] = P, the namespace in braces. Every key starts with it, so all fall into one slot of a cluster.
-- All times are microseconds since 1970 on the server's clock: whole numbers below 2^53, exact as doubles.
--
--   P:schema          string   version of this layout
--   P:version         string   version of ihvp that used it last
--   P:job:<id>        hash     one job
--       request, method, model, tags    what was asked for; never changes (the last three serve the filters)
--       tenant                          whose it is; absent: the default one's
--       needs                           JSON list of the blobs it needs while it lives
--       created, deadline, score        times; score is its place in the queue
--       priority, alike, columns, numbers   whom it may be solved with: see claim.lua
--       state, revision, attempt        see ihvp/jobs/states.py; every change adds one to revision
--       losses                          workers that died on it (a warm shutdown is none)
--       system                          '<method> <model digest>'
--       started, finished, owner, progress, result, error, cancel, removed    absent until they are known
--       yields                          JSON list of the blobs its result consists of
--       checkpoint, alone               blob of what its next attempt goes on from; whether that is for it alone
--       request_id, trace               of the request that made it; absent where it had none
--       predicted, expected             seconds it was predicted to take; '<start> <end>' as they were expected, in µs
--       block                           '<jobs> <predicted µs or ->' of the block that it leads while it runs
--       hook_events, hook_url, hook_host      which events are told to whom, where a webhook was asked for
--       op                              mark of the last write by a worker, so that a repeated call is recognised
--   P:queue           zset     waiting jobs by score: created time, less or more ten minutes by priority
--   P:queue:normal, P:queue:high, P:queue:deadlines   those of a priority, and those with a deadline
--   P:predicted       hash     waiting job -> µs that it is predicted to take
--   P:ends            zset     job that leads a running block -> when that is expected to end
--   P:pace            hash     moved: when the queue last changed; waiting: sum of P:predicted; and what blocks took, see pace()
--   P:alike:<digest>  zset     those that may be solved as one block, by score
--   P:leases          zset     running jobs by the end of their lease
--   P:deadlines       zset     unfinished jobs that have a deadline, by it
--   P:cancels         zset     running jobs that were asked to stop, by when they were
--   P:jobs            zset     all jobs by created time, which no two share
--   P:jobs:<state>    zset     the same, of one state; for each tenant: see ihvp/keyvalue/lua/tenants.lua
--   P:results         zset     finished jobs that still have a result, by the time they ended
--   P:ended           zset     finished jobs, by the time they ended
--   P:blobs           hash     digest -> how many jobs refer to it
--   P:claims          hash     owner -> '<op> <job id> ...' of its last claim, or CONDEMNED
--   P:events:<id>     stream   the job's events: type, data
--   P:once:<digest>   hash     job, fingerprint: what a key was used for; expires
--   P:workers         zset     workers by the time they last reported themselves
--   P:vitals          hash     worker -> JSON of its last sign of life: mark, gauges
--   P:quarantine      hash     '<method> <model digest>' -> '<until> <job>': what killed as many workers as a job may
--   P:sound:<system>  string   a job has succeeded by this method on this model; expires in a day
--   P:proofs          hash     worker -> when it last took a message
--   P:canary          hash     asked, sent: the first and the last message that was sent to see whether one is taken
--   P:leader:<role>   string   holder of a role
--   P:led             hash     role -> when it was last taken or kept
--   P:metrics         hash     '<family>|<label>|...' -> count; see ihvp/jobs/counts.py
--   P:events          channel  '<id> <state>' of each job that changed; the state is 'removed' once it is gone
--   P:webhooks:…               deliveries of webhooks: see ihvp/webhooks/lua/shared/outbox.lua
--
-- A script answers {'ok', ...} or {<what is wrong>, ...}.

local SCHEMA = '1'

local function key(name) return KEYS[1] .. ':' .. name end
local function job_key(id) return key('job:' .. id) end
local function int(number) return string.format('%.0f', number) end

local function clock()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000000 + tonumber(time[2])
end

-- A job's small fields as a table (absent ones are nil), or nil where there is no such job.
local FACTS = {'state', 'revision', 'attempt', 'losses', 'created', 'deadline', 'score', 'owner', 'cancel', 'needs',
  'yields', 'op', 'priority', 'alike', 'columns', 'numbers', 'checkpoint', 'alone', 'method',
  'started', 'predicted', 'expected', 'block', 'tenant', 'hook_events', 'system'}
local function facts(id)
  local values = redis.call('HMGET', job_key(id), unpack(FACTS))
  if not values[1] then return nil end
  local job = {id = id}
  for at, name in ipairs(FACTS) do job[name] = values[at] or nil end
  for _, name in ipairs({'revision', 'attempt', 'losses', 'created', 'deadline', 'score', 'columns', 'numbers', 'started',
    'predicted'}) do
    job[name] = tonumber(job[name])
  end
  job.tenant = job.tenant or DEFAULT_TENANT
  return job
end

-- Whether a tenant ('': whoever works for all) may see what belongs to another (nil: the default one).
local function may_see(tenant, owner) return tenant == '' or tenant == (owner or DEFAULT_TENANT) end

-- The same of a job; false where there is none.
local function sees(tenant, id)
  local job = redis.call('HMGET', job_key(id), 'state', 'tenant')
  return job[1] and may_see(tenant, job[2] or nil)
end

local function record(id)
  local flat = redis.call('HGETALL', job_key(id))
  return {'ok', id, flat}
end

local function finished(state) return state ~= 'queued' and state ~= 'running' end

-- Counts, each in the step that makes it so: whatever is repeated or refused is not counted.
local function count(family, ...) redis.call('HINCRBY', key('metrics'), table.concat({family, ...}, '|'), 1) end

-- Buckets of the values that scripts observe, as in ihvp/jobs/counts.py; past the last bound there is one more.
local function observe(family, label, value)
  local bounds = ({
    queue_wait_seconds = {0.01, 0.05, 0.1, 0.5, 1, 5, 10, 60, 300, 1800, 7200},
    eta_log_error = {-2, -1, -0.5, -0.25, -0.1, 0.1, 0.25, 0.5, 1, 2},
  })[family]
  local bucket = 0
  while bounds[bucket + 1] and value > bounds[bucket + 1] do bucket = bucket + 1 end
  count(family, label, bucket)
  if bounds[1] < 0 then return end  -- Prometheus forbids a sum of values that may be negative
  redis.call('HINCRBYFLOAT', key('metrics'), family .. '|' .. label .. '|sum', string.format('%.6f', value))
end

-- Adds what a worker has counted: JSON of fields, in which {method} stands for the job's.
local function count_all(fields, method)
  for field, by in pairs(cjson.decode(fields)) do
    field = string.gsub(field, '{method}', method)
    redis.call('HINCRBYFLOAT', key('metrics'), field, string.format('%.17g', by))
  end
end

-- include ihvp.webhooks/outbox

-- Counts or uncounts the references of a JSON list of digests.
local function refer(list, by)
  if not list then return end
  for _, digest in ipairs(cjson.decode(list)) do
    if redis.call('HINCRBY', key('blobs'), digest, by) <= 0 then redis.call('HDEL', key('blobs'), digest) end
  end
end

-- Adds an event. Past the limit the oldest point of progress goes; a change of state never does, so that whoever follows
-- a job misses none. Returns the event's id.
local OLDEST_LOOKED_AT = 64
local function append(id, limit, kind, data)
  local stream = key('events:' .. id)
  local event = redis.call('XADD', stream, '*', 'type', kind, 'data', data)
  if redis.call('XLEN', stream) > tonumber(limit) then
    for _, event in ipairs(redis.call('XRANGE', stream, '-', '+', 'COUNT', OLDEST_LOOKED_AT)) do
      if event[2][2] == 'progress' then
        redis.call('XDEL', stream, event[1])
        break
      end
    end
  end
  return event
end

-- Tells everybody that a job has changed, and in what state it is now.
local function announce(id, state)
  redis.call('PUBLISH', key('events'), id .. ' ' .. state)
end

-- Whether a job may share a block: one that a worker died on is solved alone, lest it takes others with it, and so is
-- one that goes on from the whole state of a solve of its own.
local function sociable(job) return job.alike and job.losses == 0 and not job.alone end

-- What the last blocks of jobs took, in µs, older ones counting less; factor: for each that was predicted.
local function pace()
  local found, names = {}, {'busy', 'jobs', 'blocks', 'foreseen_busy', 'foreseen', 'waiting', 'moved'}
  for at, value in ipairs(redis.call('HMGET', key('pace'), unpack(names))) do found[names[at]] = tonumber(value or 0) end
  found.mean = found.jobs > 0 and found.busy / found.jobs or 0
  found.factor = found.foreseen > 0 and found.foreseen_busy / found.foreseen or 1
  found.together = found.blocks > 0 and found.jobs / found.blocks or 1
  return found
end

local function seconds_of(pace, predicted) return predicted and predicted * pace.factor or pace.mean end

-- Learns from a block that a job has led to its end.
local DECAY = 0.9
local function learn(job, now)
  local jobs, predicted = string.match(job.block, '(%S+) (%S+)')
  local took, last = now - job.started, pace()
  local function next(name, by) return string.format('%.17g', DECAY * last[name] + by) end
  redis.call('HSET', key('pace'), 'busy', next('busy', took), 'jobs', next('jobs', tonumber(jobs)), 'blocks', next('blocks', 1))
  if predicted ~= '-' then
    redis.call('HSET', key('pace'), 'foreseen_busy', next('foreseen_busy', took), 'foreseen', next('foreseen', tonumber(predicted)))
  end
end

-- Notes when a running block will end, by what its leading job reports, where that differs by more than it may.
local REVISED = 0.25
local function expect_end(job, now, left)
  local ends = left and tonumber(redis.call('ZSCORE', key('ends'), job.id) or nil)
  if ends and math.abs(ends - now - left) > math.max(1000000, REVISED * left) then
    redis.call('ZADD', key('ends'), int(now + left), job.id)
  end
end

-- Counts how far off an expectation was that was given when the job was accepted.
local function count_eta(job, which, now)
  local starts, ends = string.match(job.expected or '', '(%S+) (%S+)')
  local expected = tonumber(which == 'start' and starts or ends)
  if not expected then return end
  local actual, promised = math.max(0, now - job.created), math.max(0, expected - job.created)
  observe('eta_log_error', which, math.log((1000000 + actual) / (1000000 + promised)))
end

-- The indexes of waiting jobs.
local function enqueue(job, now)
  redis.call('HSET', key('pace'), 'moved', int(now))
  if job.predicted then
    redis.call('HSET', key('predicted'), job.id, int(job.predicted))
    redis.call('HINCRBY', key('pace'), 'waiting', int(job.predicted))
  end
  local score = int(job.score)
  redis.call('ZADD', key('queue'), score, job.id)
  if job.priority == 'normal' or job.priority == 'high' then
    redis.call('ZADD', key('queue:' .. job.priority), score, job.id)
  end
  if job.deadline then redis.call('ZADD', key('queue:deadlines'), score, job.id) end
  if sociable(job) then redis.call('ZADD', key('alike:' .. job.alike), score, job.id) end
end

local function dequeue(job, now)
  redis.call('HSET', key('pace'), 'moved', int(now))
  if redis.call('HDEL', key('predicted'), job.id) == 1 then
    redis.call('HINCRBY', key('pace'), 'waiting', int(-job.predicted))
  end
  redis.call('ZREM', key('queue'), job.id)
  if job.priority then redis.call('ZREM', key('queue:' .. job.priority), job.id) end
  if job.deadline then redis.call('ZREM', key('queue:deadlines'), job.id) end
  if job.alike then redis.call('ZREM', key('alike:' .. job.alike), job.id) end
end

-- Moves a job to a state: every index, the revision, and the event. `changes` are further fields, flat.
local function move(job, state, now, limit, changes)
  local id, from, created = job.id, job.state, int(job.created)
  job.state, job.revision = state, job.revision + 1
  redis.call('HSET', job_key(id), 'state', state, 'revision', int(job.revision), unpack(changes or {}))
  redis.call('ZREM', key('jobs:' .. from), id)
  redis.call('ZADD', key('jobs:' .. state), created, id)
  redis.call('ZREM', tenant_key(job.tenant, 'jobs:' .. from), id)
  redis.call('ZADD', tenant_key(job.tenant, 'jobs:' .. state), created, id)
  if from == 'queued' then dequeue(job, now) end
  if from == 'running' then
    redis.call('ZREM', key('leases'), id)
    if job.cancel then redis.call('ZREM', key('cancels'), id) end
    redis.call('HDEL', job_key(id), 'owner', 'block')
    redis.call('ZREM', key('ends'), id)
    if state == 'succeeded' then
      if job.block then learn(job, now) end
      count_eta(job, 'end', now)
    end
  end
  if state == 'queued' then
    redis.call('HDEL', job_key(id), 'started', 'progress')
    enqueue(job, now)
  elseif finished(state) then
    redis.call('HSET', job_key(id), 'finished', int(now))
    count('jobs_finished', job.method, state)
    redis.call('ZADD', key('ended'), int(now), id)
    redis.call('ZREM', key('deadlines'), id)
    refer(job.needs, -1)
    if job.checkpoint then
      redis.call('HDEL', job_key(id), 'checkpoint', 'alone')
      refer(cjson.encode({job.checkpoint}), -1)
    end
  end
  local data = string.format('{"state":"%s","attempt":%.0f,"revision":%.0f}', state, job.attempt, job.revision)
  local event = append(id, limit, 'state', data)
  announce(id, state)
  if job.hook_events then tell_webhook(job, event, now) end
end

-- Forgets a finished job.
local function remove(job)
  -- Counted only as long as the result is there; see drop_results.
  if redis.call('ZREM', key('results'), job.id) == 1 then refer(job.yields, -1) end
  redis.call('ZREM', key('ended'), job.id)
  redis.call('ZREM', key('jobs'), job.id)
  redis.call('ZREM', key('jobs:' .. job.state), job.id)
  redis.call('ZREM', tenant_key(job.tenant, 'jobs'), job.id)
  redis.call('ZREM', tenant_key(job.tenant, 'jobs:' .. job.state), job.id)
  redis.call('DEL', job_key(job.id), key('events:' .. job.id))
  announce(job.id, 'removed')
end

-- Whether a worker's attempt is still the job's current one.
local function current(job, attempt)
  return job and job.state == 'running' and job.attempt == tonumber(attempt)
end

-- What a worker should know when it writes.
local function advice(job, now)
  if job.cancel then return 'cancel_requested' end
  if job.deadline and now > job.deadline then return 'deadline_passed' end
  return 'held'
end

-- A process that did not stop a job in time is as good as dead: it is given nothing more, and its death counts against none of
-- its other jobs. It stands so until its successor has taken them back.
local CONDEMNED = 'condemned'
local function is_condemned(owner) return redis.call('HGET', key('claims'), owner) == CONDEMNED end

-- Ends a running job whose worker did not stop it in time.
local function give_up_on(job, now, limit)
  redis.call('HSET', key('claims'), job.owner, CONDEMNED)
  move(job, job.cancel and 'cancelled' or 'expired', now, limit)
end

-- Takes a job from a lost worker. `err` is the JSON of the error it fails with; {losses} in it is filled in.
-- Where it fails for that, no job runs on its system, a method on a model, for `quarantine` µs; unless one has succeeded on it
-- lately: then it is not the system that kills.
local function reclaim(job, now, limit, max_attempts, err, cause, quarantine)
  local counted = not is_condemned(job.owner)
  local losses = job.losses + (counted and 1 or 0)
  redis.call('HSET', job_key(job.id), 'losses', int(losses))
  job.losses = losses
  if job.cancel then
    move(job, 'cancelled', now, limit)
  elseif counted and losses >= max_attempts then
    move(job, 'failed', now, limit, {'error', (string.gsub(err, '{losses}', int(losses)))})
    if quarantine > 0 and job.system and redis.call('EXISTS', key('sound:' .. job.system)) == 0 then
      redis.call('HSET', key('quarantine'), job.system, int(now + quarantine) .. ' ' .. job.id)
    end
  else
    move(job, 'queued', now, limit)
  end
  count('lease_losses', counted and cause or 'child_killed', job.state)
  local from = redis.call('HMGET', job_key(job.id), 'request_id', 'trace')
  return {job.id, job.state, int(job.attempt), from[1] or '', from[2] or ''}
end

-- When the quarantine of a system ends, and the job it began with; nil where there is none.
local function quarantine_of(system, now)
  local found = system and redis.call('HGET', key('quarantine'), system)
  if not found then return nil end
  local till, id = string.match(found, '^(%d+) (.+)$')
  if tonumber(till) > now then return tonumber(till), id end
  redis.call('HDEL', key('quarantine'), system)
  return nil
end

-- The answer with the job that was made under a key, or nil where none was.
local function made_once(digest, fingerprint)
  if digest == '' then return nil end
  local used = redis.call('HMGET', key('once:' .. digest), 'job', 'fingerprint')
  if not used[1] then return nil end
  if used[2] ~= fingerprint then return {'other_request', used[1]} end
  if redis.call('EXISTS', job_key(used[1])) == 0 then return {'not_found', used[1]} end
  return record(used[1])
end

local function claim_schema()
  redis.call('SET', key('schema'), SCHEMA, 'NX')
end
