-- Shows that the server answers and can write, and keeps who does, for a version that will read another schema.
-- ARGV: version of ihvp. Answers: {version of the schema, last version of ihvp that used it, or nil}
claim_schema()
local schema = redis.call('GET', key('schema'))
if schema == SCHEMA and redis.call('GET', key('version')) ~= ARGV[1] then redis.call('SET', key('version'), ARGV[1]) end
return {schema, redis.call('GET', key('version'))}
