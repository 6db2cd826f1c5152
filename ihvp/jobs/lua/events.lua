-- Events after a position. ARGV: id, position, limit, tenant or ''
-- Answers: {'ok', entries, position of the last one that was dropped} | {'not_found'}
if not sees(ARGV[4], ARGV[1]) then return {'not_found'} end
local stream = key('events:' .. ARGV[1])
-- The server refuses to look after the last id there can be.
if ARGV[2] == '18446744073709551615-18446744073709551615' then return {'ok', {}, '0-0'} end
local dropped, about = '0-0', redis.call('XINFO', 'STREAM', stream)
for at = 1, #about, 2 do
  if about[at] == 'max-deleted-entry-id' then dropped = about[at + 1] end
end
return {'ok', redis.call('XRANGE', stream, '(' .. ARGV[2], '+', 'COUNT', ARGV[3]), dropped}
