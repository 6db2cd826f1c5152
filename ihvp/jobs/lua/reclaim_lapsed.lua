-- Takes back jobs whose lease has run out. ARGV: max attempts, error, most at once, event limit, quarantine in µs
-- Answers: {'ok', {id, state, attempt, request_id or '', trace or ''}, ...}
local now, answer = clock(), {'ok'}
local lapsed = redis.call('ZRANGEBYSCORE', key('leases'), '-inf', int(now), 'LIMIT', 0, ARGV[3])
for _, id in ipairs(lapsed) do
  answer[#answer + 1] = reclaim(facts(id), now, ARGV[4], tonumber(ARGV[1]), ARGV[2], 'lease_lapsed', tonumber(ARGV[5]))
end
return answer
