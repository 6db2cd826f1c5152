-- The store at this moment, for a monitor. ARGV: names of the states
-- Answers: {jobs waiting, age of the oldest of them in µs, {jobs in each state}, {worker, age in µs, vitals, ...},
--   {role, when it was last held in µs, whether it is held, ...}, {field, count, ...}}
local now, jobs, workers, roles = clock(), {}, {}, {}
local oldest = tonumber(redis.call('ZRANGE', key('jobs:queued'), 0, 0, 'WITHSCORES')[2] or now)
for at, state in ipairs(ARGV) do jobs[at] = redis.call('ZCARD', key('jobs:' .. state)) end
local seen = redis.call('ZREVRANGE', key('workers'), 0, -1, 'WITHSCORES')
for at = 1, #seen, 2 do
  local vitals = redis.call('HGET', key('vitals'), seen[at])
  for _, each in ipairs({seen[at], int(now - tonumber(seen[at + 1])), vitals or '{}'}) do workers[#workers + 1] = each end
end
local led = redis.call('HGETALL', key('led'))
for at = 1, #led, 2 do
  local held = redis.call('EXISTS', key('leader:' .. led[at]))
  for _, each in ipairs({led[at], led[at + 1], held}) do roles[#roles + 1] = each end
end
-- A job that was made a moment ago may be dated after now, as no two share their time.
local age = int(math.max(0, now - oldest))
return {redis.call('ZCARD', key('queue')), age, jobs, workers, roles, redis.call('HGETALL', key('metrics'))}
