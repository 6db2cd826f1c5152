-- When a waiting job will be taken and be done; the reasons are in ihvp/jobs/outlook.py. All times in µs.
-- The functions are made when they are asked for: a poll of a running job does without them.
local function forecasting()
  local NEAR, GRACE = 32, 1000000
  local function overdue_at(at, since, now)
    if at + GRACE >= now then return at end
    local span = math.max(at - since, GRACE)
    while since + span <= now do span = span * 2 end
    return since + span
  end

  -- What the forecasts of one script share. `silent` is the age in µs from which a worker counts as gone.
  local function forecast(now, silent)
    local all = {now = now, workers = redis.call('ZCOUNT', key('workers'), int(now - silent), '+inf'), pace = pace()}
    all.waiting = redis.call('ZCARD', key('queue'))
    all.moved = all.pace.moved
    local near = redis.call('ZRANGE', key('queue'), 0, NEAR - 1)
    local predicted = #near > 0 and redis.call('HMGET', key('predicted'), unpack(near)) or {}
    all.near, all.near_sum, all.near_unpredicted = {}, 0, 0
    for at = 1, #near do
      local own = tonumber(predicted[at] or nil)
      all.near[at] = own or false
      if own then all.near_sum = all.near_sum + own else all.near_unpredicted = all.near_unpredicted + 1 end
    end
    all.ends = {}
    local running = redis.call('ZRANGE', key('ends'), 0, -1, 'WITHSCORES')
    for at = 1, #running, 2 do
      local ends = tonumber(running[at + 1])
      if ends + GRACE < now then
        ends = overdue_at(ends, tonumber(redis.call('HGET', job_key(running[at]), 'started') or ends), now)
      end
      all.ends[#all.ends + 1] = ends
    end
    table.sort(all.ends)
    return all
  end

  -- How long the jobs before a place keep one worker.
  local function work_ahead(all, place)
    local work = 0
    for at = 1, math.min(place, #all.near) do work = work + seconds_of(all.pace, all.near[at]) end
    if place > NEAR then
      local far = all.waiting - NEAR
      local predicted = (all.pace.waiting - all.near_sum) * all.pace.factor
      local others = far - (redis.call('HLEN', key('predicted')) - (NEAR - all.near_unpredicted))
      work = work + (predicted + others * all.pace.mean) * (place - NEAR) / far
    end
    return work
  end

  -- When so much work is done that workers begin as they become free.
  local function level_of(all, work)
    local free = {}
    for at = 1, math.min(#all.ends, all.workers) do free[at] = all.ends[at] end
    while #free < all.workers do free[#free + 1] = overdue_at(all.moved, all.moved, all.now) end
    table.sort(free)
    local level, left = free[1], work
    for number = 1, #free do
      local following = free[number + 1] or math.huge
      if left <= (following - level) * number then return level + left / number end
      left, level = left - (following - level) * number, following
    end
  end

  -- When a job with so many before it starts and ends, '' where unknown, and then why.
  local function expect(all, place, predicted)
    if all.workers == 0 then return {'', '', 'no_live_worker'} end
    if all.pace.blocks == 0 then
      local idle = place == 0 and #all.ends < all.workers
      return {idle and int(overdue_at(all.moved, all.moved, all.now)) or '', '', 'nothing_measured'}
    end
    local starts = level_of(all, work_ahead(all, place))
    return {int(starts), int(starts + seconds_of(all.pace, predicted) * all.pace.together), ''}
  end

  -- The place of a waiting job and what is expected of it; {} where it does not wait.
  local function place_of(all, id)
    local place = redis.call('ZRANK', key('queue'), id)
    if not place then return {} end
    local predicted = tonumber(redis.call('HGET', key('predicted'), id) or nil)
    return {place, unpack(expect(all, place, predicted))}
  end

  return forecast, place_of, expect
end

-- Where waiting jobs stand, worked out once for all that a script asks for: a function of the id.
local function places(now, silent)
  local forecast, place_of = forecasting()
  local all = forecast(now, tonumber(silent))
  return function(id) return place_of(all, id) end
end

-- The answer with a record, and the job's place if it waits.
local function placed(answer, silent)
  if answer[1] == 'ok' then answer[4] = places(clock(), silent)(answer[2]) end
  return answer
end
