-- In front of every script of the model registry.
--
-- KEYS[1] = P, the namespace in braces; every key starts with it.
--
--   P:models                zset   names, all with score 0: in order of the alphabet
--   P:model:<name>          hash   version -> '<created, µs since 1970> <record without version and time, JSON>'
--   P:model-digests:<name>  hash   digest of a spec -> version
--   P:model-aliases:<name>  hash   alias -> version
--   P:model-blobs           set    digests of the blobs that any model needs, of all tenants
--
-- The first four are the default tenant's; those of another tenant have P:tenant:<t> for P.
-- ARGV[1] of each script that names models is the tenant.

local function key(name) return KEYS[1] .. ':' .. name end
local function own_key(name)
  return ARGV[1] == DEFAULT_TENANT and key(name) or tenant_key(ARGV[1], name)
end
local function model_key(name) return own_key('model:' .. name) end

local function aliases_key(name) return own_key('model-aliases:' .. name) end

local function latest(name)
  local version = redis.call('HLEN', model_key(name))
  return {version, redis.call('HGET', model_key(name), version)}
end
