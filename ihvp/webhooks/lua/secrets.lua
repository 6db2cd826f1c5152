-- A tenant's secrets that count now, the newest first. ARGV: tenant. Answers: {'ok', JSON, ...}
return {'ok', unpack(valid_secrets(ARGV[1], clock()))}
