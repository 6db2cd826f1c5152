-- All keys. Answers: records
local answer = {}
for _, id in ipairs(redis.call('ZRANGE', keys_key(), 0, -1)) do answer[#answer + 1] = key_record(id) end
return answer
