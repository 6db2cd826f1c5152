-- The latest version of each name, in order. ARGV: tenant, limit, name to start after or ''. Answers: {{name, version, record}, ...}
local from = ARGV[3] == '' and '-' or '(' .. ARGV[3]
local answer = {}
for _, name in ipairs(redis.call('ZRANGEBYLEX', own_key('models'), from, '+', 'LIMIT', 0, ARGV[2])) do
  local entry = latest(name)
  answer[#answer + 1] = {name, entry[1], entry[2]}
end
return answer
