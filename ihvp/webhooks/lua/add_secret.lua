-- Adds a secret: the first, or one that takes the place of those before it, which count for a while yet.
-- ARGV: tenant, id, secret, what to do (create or rotate), for how long the ones before count in µs, most that count
-- Answers: {'ok', JSON of all, the newest first} | {'exists', id} | {'none'}
local secrets, now = hook_key('secrets:' .. ARGV[1]), clock()
local before = valid_secrets(ARGV[1], now)
if ARGV[4] == 'create' and before[1] then return {'exists', cjson.decode(before[1]).id} end
if ARGV[4] == 'rotate' and not before[1] then return {'none'} end
redis.call('DEL', secrets)
local ends = now + tonumber(ARGV[5])
local last = now - 1
for at, text in ipairs(before) do
  local secret = cjson.decode(text)
  local until_ = math.min(tonumber(secret['until']) or ends, ends)
  if at == 1 then last = math.max(last, tonumber(secret.created)) end
  if until_ > now and at < tonumber(ARGV[6]) then
    redis.call('HSET', secrets, secret.id, cjson.encode({id = secret.id, secret = secret.secret,
      created = secret.created, ['until'] = int(until_)}))
  end
end
redis.call('HSET', secrets, ARGV[2], cjson.encode({id = ARGV[2], secret = ARGV[3], created = int(last + 1)}))
return {'ok', unpack(valid_secrets(ARGV[1], now))}
