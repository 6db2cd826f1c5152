-- In front of every script of webhooks. KEYS[1] = P; times are microseconds since 1970 on the server's clock.

local function key(name) return KEYS[1] .. ':' .. name end
local function job_key(id) return key('job:' .. id) end
local function int(number) return string.format('%.0f', number) end
local function finished(state) return state ~= 'queued' and state ~= 'running' end

local function clock()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000000 + tonumber(time[2])
end

-- include ihvp.webhooks/outbox

local MOST_TRIES_KEPT = 50

-- A delivery's small fields, or nil where there is none.
local function delivery(id)
  local values = redis.call('HMGET', hook_key('delivery:' .. id), 'tenant', 'lane', 'state', 'attempt', 'round', 'created',
    'job')
  if not values[1] then return nil end
  return {id = id, tenant = values[1], lane = values[2], state = values[3], attempt = tonumber(values[4]),
    round = tonumber(values[5]), created = values[6], job = values[7]}
end

-- One of a tenant's deliveries: nobody learns of another's.
local function own(tenant, id)
  local found = delivery(id)
  return found and found.tenant == tenant and found or nil
end

local function record(id)
  return {id, redis.call('HGETALL', hook_key('delivery:' .. id)), redis.call('LRANGE', hook_key('tries:' .. id), 0, -1),
    redis.call('ZSCORE', hook_key('leases'), id) and 1 or 0}
end

local function count(outcome, by) redis.call('HINCRBY', hook_key('counts'), outcome, by or 1) end

local function note_try(id, try)
  redis.call('RPUSH', hook_key('tries:' .. id), try)
  redis.call('LTRIM', hook_key('tries:' .. id), -MOST_TRIES_KEPT, -1)
end

-- Takes a delivery out of those that wait.
local function take_out(item)
  redis.call('ZREM', hook_key('due'), item.id)
  redis.call('ZREM', hook_key('due:' .. item.lane), item.id)
  local first = redis.call('ZRANGE', hook_key('due:' .. item.lane), 0, 0, 'WITHSCORES')
  if first[2] then
    redis.call('ZADD', hook_key('lanes'), first[2], item.lane)
  else
    redis.call('ZREM', hook_key('lanes'), item.lane)
  end
end

-- Ends a sender's hold of a delivery.
local function let_go(item)
  redis.call('ZREM', hook_key('leases'), item.id)
  if redis.call('HINCRBY', hook_key('busy'), item.lane, -1) <= 0 then redis.call('HDEL', hook_key('busy'), item.lane) end
end

local function into(item, state)
  redis.call('ZREM', hook_key(item.state .. ':' .. item.tenant), item.id)
  redis.call('ZADD', hook_key(state .. ':' .. item.tenant), item.created, item.id)
  if item.state == 'dead' then count('dead_now', -1) end
  if state == 'dead' then count('dead_now') end
  redis.call('HSET', hook_key('delivery:' .. item.id), 'state', state)
  item.state = state
end

local function finish(item, state, now)
  into(item, state)
  count(state)
  redis.call('HDEL', hook_key('delivery:' .. item.id), 'due')
  redis.call('HSET', hook_key('delivery:' .. item.id), 'ended', int(now))
  redis.call('ZADD', hook_key('ended'), int(now), item.id)
end

-- A tenant's secrets that count now, as JSON, the newest first.
local function valid_secrets(tenant, now)
  local found = {}
  for _, text in ipairs(redis.call('HVALS', hook_key('secrets:' .. tenant))) do
    local secret = cjson.decode(text)
    if not tonumber(secret['until']) or tonumber(secret['until']) > now then
      found[#found + 1] = {created = tonumber(secret.created), text = text}
    end
  end
  table.sort(found, function(a, b) return a.created > b.created end)
  for at, entry in ipairs(found) do found[at] = entry.text end
  return found
end
