-- How the outbox stands.
-- Answers: {due now, waiting for a later try, being sent, dead, age of the oldest that is due in µs, counts}
local now = clock()
local due = redis.call('ZCOUNT', hook_key('due'), '-inf', int(now))
local first = redis.call('ZRANGE', hook_key('due'), 0, 0, 'WITHSCORES')[2]
return {due, redis.call('ZCARD', hook_key('due')) - due, redis.call('ZCARD', hook_key('leases')),
  tonumber(redis.call('HGET', hook_key('counts'), 'dead_now') or 0),
  int(first and math.max(now - tonumber(first), 0) or 0), redis.call('HGETALL', hook_key('counts'))}
