-- Workers that reported themselves, most recent first. Answers: {'ok', worker, age in µs, ...}
local now, answer = clock(), {'ok'}
local seen = redis.call('ZREVRANGE', key('workers'), 0, -1, 'WITHSCORES')
for at = 1, #seen, 2 do
  answer[#answer + 1] = seen[at]
  answer[#answer + 1] = int(now - tonumber(seen[at + 1]))
end
return answer
