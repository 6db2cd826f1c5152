-- In front of every script about keys.
--
--   P:keys            zset     ids of all keys that were ever made, by when
--   P:key:<id>        hash     one key: spec (JSON: name, tenant, scope, sha256), created, expires, revoked, used
--                              (times in µs since 1970; the last three where they are known)

local function keys_key() return KEYS[1] .. ':keys' end
local function key_key(id) return KEYS[1] .. ':key:' .. id end
local function now()
  local time = redis.call('TIME')
  return string.format('%s%06d', time[1], tonumber(time[2]))
end

-- {id, spec, now, created, expires or '', revoked or '', used or ''}, or {} where there is no such key.
local function key_record(id)
  local key = redis.call('HMGET', key_key(id), 'spec', 'created', 'expires', 'revoked', 'used')
  if not key[1] then return {} end
  return {id, key[1], now(), key[2], key[3] or '', key[4] or '', key[5] or ''}
end
