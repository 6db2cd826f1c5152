-- In front of every script of every store: what belongs to whom.
--
--   P:tenants                     set    tenants that have, or have had, anything
--   P:tenant:<t>:jobs             zset   the tenant's jobs by created time; P:jobs has all tenants'
--   P:tenant:<t>:jobs:<state>     zset   the same, of one state
--   P:tenant:<t>:blobs            hash   digest -> bytes: the blobs that the tenant may see, each for as long as it is kept
--   P:tenant:<t>:bytes            string bytes of those together
--   P:tenant:<t>:models, ...      models of any tenant but the default one: see ihvp/models/lua/prelude.lua

local DEFAULT_TENANT = 'default'
local function tenant_key(tenant, name) return KEYS[1] .. ':tenant:' .. tenant .. ':' .. name end

-- What was stored before there were tenants becomes the default tenant's: once, when something is first added or looked
-- for. What a tenant has is written down only after this.
local function settle(tenant)
  local tenants = KEYS[1] .. ':tenants'
  if redis.call('EXISTS', tenants) == 0 then
    for _, index in ipairs({'jobs', 'jobs:queued', 'jobs:running', 'jobs:succeeded', 'jobs:failed', 'jobs:cancelled',
      'jobs:expired'}) do
      redis.call('ZUNIONSTORE', tenant_key(DEFAULT_TENANT, index), 1, KEYS[1] .. ':' .. index)
    end
    for _, digest in ipairs(redis.call('HKEYS', KEYS[1] .. ':blobs')) do
      redis.call('HSETNX', tenant_key(DEFAULT_TENANT, 'blobs'), digest, 0)
    end
    for _, digest in ipairs(redis.call('SMEMBERS', KEYS[1] .. ':model-blobs')) do
      redis.call('HSETNX', tenant_key(DEFAULT_TENANT, 'blobs'), digest, 0)
    end
    redis.call('SADD', tenants, DEFAULT_TENANT)
  end
  redis.call('SADD', tenants, tenant)
end

-- Lets a tenant see a blob; 1 where it did not before. A blob counts once for each tenant that has it.
local function hold(tenant, digest, bytes)
  if redis.call('HSETNX', tenant_key(tenant, 'blobs'), digest, bytes) == 0 then return 0 end
  redis.call('INCRBY', tenant_key(tenant, 'bytes'), bytes)
  return 1
end

-- Whether somebody but this tenant may see a blob.
local function held_by_another(tenant, digest)
  for _, other in ipairs(redis.call('SMEMBERS', KEYS[1] .. ':tenants')) do
    if other ~= tenant and redis.call('HEXISTS', tenant_key(other, 'blobs'), digest) == 1 then return true end
  end
  return false
end
