-- Has a delivery sent again, or at once, by a schedule that begins anew.
-- ARGV: tenant, id. Answers: {'ok', record} | {'not_found'} | {'under_way'}
local item, now = own(ARGV[1], ARGV[2]), clock()
if not item then return {'not_found'} end
if redis.call('ZSCORE', hook_key('leases'), item.id) then return {'under_way'} end
if item.state == 'pending' then
  take_out(item)
else
  into(item, 'pending')
  redis.call('ZREM', hook_key('ended'), item.id)
  redis.call('HDEL', hook_key('delivery:' .. item.id), 'ended')
end
redis.call('HSET', hook_key('delivery:' .. item.id), 'round', int(item.attempt))
rest(item.id, item.lane, now)
return {'ok', record(item.id)}
