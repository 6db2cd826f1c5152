-- Notes a factor; drops the least recently used ones for want of room. The same call again changes nothing.
-- ARGV: name, digest, bytes, bound in bytes. Answers: 1 | 0 where it is larger than the bound
local name, size, bound = ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[4])
if size > bound then return 0 end
local total = drop(name)
while total + size > bound do
  local oldest = redis.call('ZRANGE', key('factors:used'), 0, 0)[1]
  if not oldest then break end
  total = drop(oldest)
end
redis.call('HSET', key('factors'), name, ARGV[3] .. ' ' .. ARGV[2])
redis.call('ZADD', key('factors:used'), clock(), name)
redis.call('INCRBY', key('factors:bytes'), ARGV[3])
return 1
