-- Jobs that pass a filter, newest first. It looks at a bounded number of them and then hands back a cursor.
-- ARGV: limit, most to look at, state or '', method or '', model or '', tags, created before or '', created after or '',
--   age in µs from which a worker counts as gone, tenant or ''
-- Answers: {'ok', cursor or '', {id, fields, {place, start, end, why unknown} or {}}, ...}
local limit, bound = tonumber(ARGV[1]), tonumber(ARGV[2])
local state, method, model, tags = ARGV[3], ARGV[4], ARGV[5], cjson.decode(ARGV[6])
local before = ARGV[7] == '' and '+inf' or '(' .. ARGV[7]
local after = ARGV[8] == '' and '-inf' or '(' .. ARGV[8]
local tenant, name = ARGV[10], state == '' and 'jobs' or 'jobs:' .. state
local index = tenant == '' and key(name) or tenant_key(tenant, name)
if redis.call('EXISTS', key('tenants')) == 0 then settle(DEFAULT_TENANT) end
local CHUNK = 100

-- Worked out where the first waiting job is met, for all of them.
local ahead
local function place(id)
  if redis.call('HGET', job_key(id), 'state') ~= 'queued' then return {} end
  ahead = ahead or places(clock(), ARGV[9])
  return ahead(id)
end

local function passes(id)
  if method == '' and model == '' and next(tags) == nil then return true end
  local job = redis.call('HMGET', job_key(id), 'method', 'model', 'tags')
  if method ~= '' and job[1] ~= method then return false end
  -- A name stands for all of its versions.
  if model ~= '' and job[2] ~= model and string.sub(job[2], 1, #model + 1) ~= model .. '@' then return false end
  if next(tags) ~= nil then
    local has = cjson.decode(job[3])
    for name, value in pairs(tags) do
      if has[name] ~= value then return false end
    end
  end
  return true
end

local found, seen, cursor = {'ok', ''}, 0, ''
while true do
  local chunk = redis.call('ZREVRANGEBYSCORE', index, before, after, 'WITHSCORES', 'LIMIT', 0, CHUNK)
  for at = 1, #chunk, 2 do
    local id, created = chunk[at], chunk[at + 1]
    seen = seen + 1
    if passes(id) then
      -- One more than asked for passes, so there is another page.
      if #found - 2 == limit then
        found[2] = cursor
        return found
      end
      found[#found + 1] = {id, redis.call('HGETALL', job_key(id)), place(id)}
    end
    cursor = created
    if seen == bound then
      found[2] = cursor
      return found
    end
  end
  if #chunk < 2 * CHUNK then return found end
  before = '(' .. cursor
end
