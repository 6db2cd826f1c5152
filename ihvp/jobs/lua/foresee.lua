-- What a job that came now would find.
-- ARGV: head start in µs, µs it is predicted to take or '', age in µs from which a worker counts as gone
-- Answers: {jobs that wait, live workers, now, start, end, why unknown}
local now, forecast, _, expect = clock(), forecasting()
local ahead = forecast(now, tonumber(ARGV[3]))
-- It comes before those that wait behind its score; between two changes of the queue it would come now.
local place = redis.call('ZCOUNT', key('queue'), '-inf', '(' .. int(now - tonumber(ARGV[1])))
ahead.moved = now
return {ahead.waiting, ahead.workers, int(now), unpack(expect(ahead, place, tonumber(ARGV[2])))}
