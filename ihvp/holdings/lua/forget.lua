-- Blobs that are gone: no tenant has them any more. ARGV: digest, ...
for _, tenant in ipairs(redis.call('SMEMBERS', KEYS[1] .. ':tenants')) do
  local blobs = tenant_key(tenant, 'blobs')
  local sizes = redis.call('HMGET', blobs, unpack(ARGV))
  for at, size in ipairs(sizes) do
    if size then
      redis.call('HDEL', blobs, ARGV[at])
      local bytes = tenant_key(tenant, 'bytes')
      if redis.call('DECRBY', bytes, size) <= 0 then redis.call('DEL', bytes) end
    end
  end
end
return {}
