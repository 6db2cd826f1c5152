-- The latest version of each name, in order. ARGV: limit, name to start after or ''. Answers: {{name, version, record}, ...}
local from = ARGV[2] == '' and '-' or '(' .. ARGV[2]
local answer = {}
for _, name in ipairs(redis.call('ZRANGEBYLEX', key('models'), from, '+', 'LIMIT', 0, ARGV[1])) do
  local entry = latest(name)
  answer[#answer + 1] = {name, entry[1], entry[2]}
end
return answer
