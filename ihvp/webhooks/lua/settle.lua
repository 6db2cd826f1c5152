-- Notes how a try went, and what follows from it.
-- ARGV: id, attempt, try as JSON, outcome (delivered, dead, or failed: it is tried again), pause before that in µs
-- Answers: {'ok'} | {'stale'}: the lease had run out, and another sender has it or had it
local item, now = delivery(ARGV[1]), clock()
if not item or item.attempt ~= tonumber(ARGV[2]) or not redis.call('ZSCORE', hook_key('leases'), item.id) then
  return {'stale'}
end
let_go(item)
note_try(item.id, ARGV[3])
if ARGV[4] == 'failed' then
  count('failed')
  rest(item.id, item.lane, now + tonumber(ARGV[5]))
else
  finish(item, ARGV[4], now)
end
return {'ok'}
