-- Takes or keeps a role. ARGV: role, holder, time to live in ms. Answers: 1 | 0
local role = key('leader:' .. ARGV[1])
local holder = redis.call('GET', role)
if holder and holder ~= ARGV[2] then return 0 end
redis.call('SET', role, ARGV[2], 'PX', ARGV[3])
redis.call('HSET', key('led'), ARGV[1], int(clock()))
if ARGV[1] == 'reconciler' then count('reconciler_rounds') end
return 1
