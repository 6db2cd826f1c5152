-- Those of the digests that any model needs. ARGV: digests. Answers: them
local needed = {}
for _, digest in ipairs(ARGV) do
  if redis.call('SISMEMBER', key('model-blobs'), digest) == 1 then needed[#needed + 1] = digest end
end
return needed
