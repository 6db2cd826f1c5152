-- What tells whether records have changed, of many jobs in one step, for pollers who ask at the same moment.
-- ARGV: age in µs from which a worker counts as gone, then of each job: id, tenant or ''
-- Answers: {'ok', {state, revision, {place, start, end, why unknown} or {}} or {} for none that is seen, ...}
local answer, place_of = {'ok'}, nil
for at = 2, #ARGV, 2 do
  local seen = redis.call('HMGET', job_key(ARGV[at]), 'state', 'revision', 'tenant')
  if not seen[1] or not may_see(ARGV[at + 1], seen[3] or nil) then
    answer[#answer + 1] = {}
  else
    local place = {}
    if seen[1] == 'queued' then
      -- The queue is foreseen once, however many of its jobs are asked for.
      place_of = place_of or places(clock(), ARGV[1])
      place = place_of(ARGV[at])
    end
    answer[#answer + 1] = {seen[1], seen[2], place}
  end
end
return answer
