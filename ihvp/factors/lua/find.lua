-- The blob of a factor, which counts as used now. ARGV: name. Answers: digest | false
local kept = redis.call('HGET', key('factors'), ARGV[1])
if not kept then return false end
redis.call('ZADD', key('factors:used'), clock(), ARGV[1])
return string.match(kept, ' (.*)$')
