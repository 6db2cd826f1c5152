-- Which of these blobs the tenant may see. ARGV: tenant, digest, ... Answers: their digests
if redis.call('EXISTS', KEYS[1] .. ':tenants') == 0 then settle(DEFAULT_TENANT) end
local held = {}
for at = 2, #ARGV do
  if redis.call('HEXISTS', tenant_key(ARGV[1], 'blobs'), ARGV[at]) == 1 then held[#held + 1] = ARGV[at] end
end
return held
