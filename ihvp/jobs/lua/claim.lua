-- Gives the best waiting job to an owner, and with it waiting jobs that can be solved as one block: alike, and no more
-- right-hand sides and numbers in them than the bounds. None is taken along past a waiting job that has a higher priority or a deadline, nor
-- behind one of the block whose deadline is near. The same call again answers with the same jobs.
-- ARGV: owner, lease in µs, op, event limit, how near a deadline is in µs, most right-hand sides of a block, most numbers
--   in them, error of a job whose system is in quarantine
-- Answers: {'ok', {id, fields}, ...} | {'none'}
local owner, lease, op, limit = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4]
local near, most, most_numbers = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local answer = {'ok'}
local function add(id) answer[#answer + 1] = {id, redis.call('HGETALL', job_key(id))} end

-- A claim follows a message: see chain.lua. Noted once a second, or where somebody waits to know.
local proof = tonumber(redis.call('HGET', key('proofs'), owner) or 0)
if clock() - proof > 1000000 or tonumber(redis.call('HGET', key('canary'), 'asked') or 0) > proof then
  redis.call('HSET', key('proofs'), owner, int(clock()))
end
local last = redis.call('HGET', key('claims'), owner)
if last == CONDEMNED then return {'none'} end
if last and string.sub(last, 1, #op + 1) == op .. ' ' then
  for id in string.gmatch(string.sub(last, #op + 2), '%S+') do
    local job = facts(id)
    if job and job.state == 'running' and job.owner == owner then add(id) end
  end
  if #answer > 1 then return answer end
end

local now, claim = clock(), op
local function first(index)
  local found = redis.call('ZRANGE', key(index), 0, 0, 'WITHSCORES')
  return found[1], tonumber(found[2])
end

local function overdue(job)
  local late = job.deadline and now > job.deadline
  if late then move(job, 'expired', now, limit) end
  return late
end

-- Fails a job whose method has killed worker after worker on its model. {seconds} in the error is filled in.
local function refused(job)
  local till = quarantine_of(job.system, now)
  if till then
    local left = int(math.ceil((till - now) / 1000000))
    move(job, 'failed', now, limit, {'error', (string.gsub(ARGV[8], '{seconds}', left))})
  end
  return till
end

local function take(job)
  job.attempt = job.attempt + 1
  count('attempts', job.method)
  if job.attempt == 1 then
    observe('queue_wait_seconds', job.priority or 'normal', math.max(0, now - job.created) / 1000000)
    count_eta(job, 'start', now)
  end
  redis.call('ZADD', key('leases'), int(now + lease), job.id)
  move(job, 'running', now, limit, {'attempt', int(job.attempt), 'owner', owner, 'started', int(now)})
  claim = claim .. ' ' .. job.id
  add(job.id)
end

-- All that are alike and stand before it have been taken, so whoever still waits there is another.
local HIGHER = {low = {'queue:normal', 'queue:high'}, normal = {'queue:high'}, high = {}}
local function overtakes(job)
  for _, index in ipairs({'queue:deadlines', unpack(HIGHER[job.priority])}) do
    local id, score = first(index)
    if id and score < job.score then return true end
  end
  return false
end

-- More of them than this are left to the next message, for the server does nothing else meanwhile.
local best, looked = nil, 0
while not best do
  looked = looked + 1
  if looked > 500 then return {'none'} end
  local id = first('queue')
  if not id then return {'none'} end
  local job = facts(id)
  if not overdue(job) and not refused(job) then best = job end
end
take(best)

local rows, numbers, job = best.columns, best.numbers, best
local jobs, predicted = 1, best.predicted
while sociable(best) and rows < most and not (job.deadline and job.deadline - now < near) do
  local id = first('alike:' .. best.alike)
  if not id then break end
  local another = facts(id)
  if not overdue(another) then
    rows, numbers = rows + another.columns, numbers + another.numbers
    if rows > most or numbers > most_numbers or overtakes(another) then break end
    take(another)
    job = another
    jobs, predicted = jobs + 1, predicted and another.predicted and predicted + another.predicted
  end
end
redis.call('HSET', key('claims'), owner, claim)
redis.call('HSET', job_key(best.id), 'block', jobs .. ' ' .. (predicted and int(predicted) or '-'))
local pace = pace()
local takes = predicted and seconds_of(pace, predicted) or jobs * pace.mean
redis.call('ZADD', key('ends'), int(now + takes), best.id)
return answer
