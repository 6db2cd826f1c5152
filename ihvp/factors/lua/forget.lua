-- Drops a factor, if it is there. ARGV: name. Answers: bytes of those that are left
return drop(ARGV[1])
