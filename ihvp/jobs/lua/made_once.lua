-- The job that was made under a key.
-- ARGV: digest of the key, fingerprint. Answers: record | {'none'} | {'other_request', id} | {'not_found'}
return made_once(ARGV[1], ARGV[2]) or {'none'}
