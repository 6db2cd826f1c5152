-- Lets a tenant see a blob that is stored. ARGV: tenant, digest, bytes, most bytes of the tenant or 0
-- Answers: {1 where it did not see it before, bytes it has} | {-1, bytes it has} where there is no room
settle(ARGV[1])
local function total() return tonumber(redis.call('GET', tenant_key(ARGV[1], 'bytes')) or 0) end
local most = tonumber(ARGV[4])
if most > 0 and total() + tonumber(ARGV[3]) > most
  and redis.call('HEXISTS', tenant_key(ARGV[1], 'blobs'), ARGV[2]) == 0 then
  return {-1, total()}
end
return {hold(ARGV[1], ARGV[2], ARGV[3]), total()}
