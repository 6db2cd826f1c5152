-- Bytes of the blobs that the tenant may see. ARGV: tenant
return redis.call('GET', tenant_key(ARGV[1], 'bytes')) or '0'
