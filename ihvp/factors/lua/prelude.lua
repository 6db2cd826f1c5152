-- In front of every script of the factor index.
--
-- KEYS[1] = P, the namespace in braces; every key starts with it. Times are microseconds since 1970.
--
--   P:factors        hash     name -> '<bytes> <digest of the blob>'
--   P:factors:used   zset     names by the time of their last use
--   P:factors:bytes  string   bytes of all of them

local function key(name) return KEYS[1] .. ':' .. name end

local function clock()
  local time = redis.call('TIME')
  return string.format('%.0f', tonumber(time[1]) * 1000000 + tonumber(time[2]))
end

-- Drops one, if it is there; answers the bytes of those that are left.
local function drop(name)
  local kept = redis.call('HGET', key('factors'), name)
  if not kept then return tonumber(redis.call('GET', key('factors:bytes')) or '0') end
  redis.call('HDEL', key('factors'), name)
  redis.call('ZREM', key('factors:used'), name)
  return redis.call('DECRBY', key('factors:bytes'), string.match(kept, '^%d+'))
end
