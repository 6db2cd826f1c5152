-- Forgets deliveries that ended long ago. ARGV: age in µs, most at once. Answers: {'ok', id, ...}
local oldest_kept, answer = clock() - tonumber(ARGV[1]), {'ok'}
local old = redis.call('ZRANGEBYSCORE', hook_key('ended'), '-inf', '(' .. int(oldest_kept), 'LIMIT', 0, ARGV[2])
for _, id in ipairs(old) do
  local item = delivery(id)
  if item.state == 'dead' then count('dead_now', -1) end
  for _, index in ipairs({'ended', 'all:' .. item.tenant, item.state .. ':' .. item.tenant, 'job:' .. item.job}) do
    redis.call('ZREM', hook_key(index), id)
  end
  redis.call('DEL', hook_key('delivery:' .. id), hook_key('tries:' .. id))
  answer[#answer + 1] = id
end
return answer
