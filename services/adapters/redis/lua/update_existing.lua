-- Set fields of a hash if all of them exist; otherwise change nothing.
-- KEYS: hash. ARGV: field, value, field, value, ... (at least one pair). Returns 1 if set, 0 if a field is missing.
for at = 1, #ARGV, 2 do
  if redis.call('HEXISTS', KEYS[1], ARGV[at]) == 0 then
    return 0
  end
end
redis.call('HSET', KEYS[1], unpack(ARGV))
return 1
