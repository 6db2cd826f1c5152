-- A tenant's deliveries, newest first; it looks at a bounded number of them and then hands back a cursor.
-- ARGV: tenant, limit, most to look at, state or '', job or '', created before or ''
-- Answers: {'ok', cursor or '', record, ...}
local tenant, limit, bound, state, job = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4], ARGV[5]
local index = job ~= '' and 'job:' .. job or (state ~= '' and state or 'all') .. ':' .. tenant
local before = ARGV[6] == '' and '+inf' or '(' .. ARGV[6]
local found, cursor = {'ok', ''}, ''
local page = redis.call('ZREVRANGEBYSCORE', hook_key(index), before, '-inf', 'LIMIT', 0, bound + 1)
for at, id in ipairs(page) do
  local item = delivery(id)
  if item.tenant == tenant and (state == '' or item.state == state) then
    if #found - 2 == limit then
      found[2] = cursor
      return found
    end
    found[#found + 1] = record(id)
  end
  cursor = item.created
  if at == bound then
    if page[at + 1] then found[2] = cursor end
    return found
  end
end
return found
