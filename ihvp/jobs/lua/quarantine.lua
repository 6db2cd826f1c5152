-- What is in quarantine now. ARGV: digest of a model that is let out of it, or ''
-- Answers: {'ok', {system, left in µs, job}, ...}, those that are let out where a digest was given
local now, answer = clock(), {'ok'}
for _, system in ipairs(redis.call('HKEYS', key('quarantine'))) do
  local till, id = quarantine_of(system, now)
  local digest = string.match(system, ' (.+)$')
  if till and (ARGV[1] == '' or ARGV[1] == digest) then
    answer[#answer + 1] = {system, int(till - now), id}
    if ARGV[1] ~= '' then redis.call('HDEL', key('quarantine'), system) end
  end
end
return answer
