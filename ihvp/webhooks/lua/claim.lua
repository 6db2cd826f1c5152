-- Gives due deliveries to a sender, each under a lease: those that have waited longest, but no more of a lane at once
-- than its share. A delivery whose lease ran out (its sender died) is due again, as long as it has tries left.
-- ARGV: lease in µs, most at once, most of a lane, most tries. Answers: {'ok', {record, secrets}, ...}
local now, lease, most, share, tries = clock(), tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local answer = {'ok'}

for _, id in ipairs(redis.call('ZRANGEBYSCORE', hook_key('leases'), '-inf', int(now), 'LIMIT', 0, 100)) do
  local item = delivery(id)
  let_go(item)
  note_try(id, string.format('{"attempt":%d,"at":%s,"error":"sender_lost"}', item.attempt, int(now)))
  count('lost')
  if item.attempt - item.round >= tries then finish(item, 'dead', now) else rest(id, item.lane, now) end
end

-- Of so many lanes, those that have their share already are fewer than those that are being sent to.
local looked_at = redis.call('HLEN', hook_key('busy')) + most
for _, lane in ipairs(redis.call('ZRANGEBYSCORE', hook_key('lanes'), '-inf', int(now), 'LIMIT', 0, looked_at)) do
  local busy = tonumber(redis.call('HGET', hook_key('busy'), lane) or 0)
  local room = math.min(share - busy, most - #answer + 1)
  if room > 0 then
    for _, id in ipairs(redis.call('ZRANGEBYSCORE', hook_key('due:' .. lane), '-inf', int(now), 'LIMIT', 0, room)) do
      local item = delivery(id)
      take_out(item)
      redis.call('ZADD', hook_key('leases'), int(now + lease), id)
      redis.call('HINCRBY', hook_key('busy'), lane, 1)
      redis.call('HINCRBY', hook_key('delivery:' .. id), 'attempt', 1)
      answer[#answer + 1] = {record(id), valid_secrets(item.tenant, now)}
    end
  end
end
return answer
