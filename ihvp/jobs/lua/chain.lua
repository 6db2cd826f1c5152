-- Whether messages reach workers. A worker that lately took one is a proof of it, and so is one that works on a job; where
-- neither is known, one message is to be sent, by one of all who ask.
-- ARGV: age in µs from which a worker counts as gone, age from which a proof is old, pause between two messages
-- Answers: {'ok', live workers, age of the latest proof or '', age of the first message without an answer or '', 1 to send one: 1 or 0}
local now = clock()
local live = redis.call('ZRANGEBYSCORE', key('workers'), int(now - tonumber(ARGV[1])), '+inf')
if #live == 0 then
  -- Whoever comes later has its own time to answer in.
  if redis.call('EXISTS', key('canary')) == 1 then redis.call('DEL', key('canary')) end
  return {'ok', 0, '', '', 0}
end
local lives = {}
for _, owner in ipairs(live) do lives[owner] = true end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', key('leases'), '(' .. int(now), '+inf', 'LIMIT', 0, 100)) do
  if lives[redis.call('HGET', job_key(id), 'owner')] then return {'ok', #live, '0', '', 0} end
end
local latest = 0
for _, proof in ipairs(redis.call('HMGET', key('proofs'), unpack(live))) do
  latest = math.max(latest, tonumber(proof or 0))
end
local age = latest > 0 and int(now - latest) or ''
if latest > 0 and now - latest <= tonumber(ARGV[2]) then return {'ok', #live, age, '', 0} end
local canary = redis.call('HMGET', key('canary'), 'asked', 'sent')
local asked = tonumber(canary[1] or 0)
if asked <= latest then
  asked = now
elseif now - tonumber(canary[2]) <= tonumber(ARGV[3]) then
  return {'ok', #live, age, int(now - asked), 0}
end
redis.call('HSET', key('canary'), 'asked', int(asked), 'sent', int(now))
return {'ok', #live, age, int(now - asked), 1}
