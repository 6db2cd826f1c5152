-- Shows that the server answers and can write. Answers: the schema's version
claim_schema()
return redis.call('GET', key('schema'))
