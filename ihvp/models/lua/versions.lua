-- All versions of a name, newest first. ARGV: tenant, name. Answers: {{version, record}, ...}
local answer = {}
for version = redis.call('HLEN', model_key(ARGV[2])), 1, -1 do
  answer[#answer + 1] = {version, redis.call('HGET', model_key(ARGV[2]), version)}
end
return answer
