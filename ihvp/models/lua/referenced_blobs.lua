-- Digests that any model needs. Answers: them
return redis.call('SMEMBERS', key('model-blobs'))
