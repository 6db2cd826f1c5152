-- Drops factors that nobody has used for long. ARGV: µs, most at once. Answers: how many
local oldest = string.format('%.0f', tonumber(clock()) - tonumber(ARGV[1]))
local unused = redis.call('ZRANGEBYSCORE', key('factors:used'), '-inf', '(' .. oldest, 'LIMIT', 0, ARGV[2])
for _, name in ipairs(unused) do drop(name) end
return #unused
