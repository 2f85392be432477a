-- Set fields that exist already, all of them or none.
-- KEYS: hash. ARGV: field, value, field, value, ... Returns 1 if set, 0 if a field was missing.
for at = 1, #ARGV, 2 do
  if redis.call('HEXISTS', KEYS[1], ARGV[at]) == 0 then
    return 0
  end
end
if #ARGV > 0 then
  redis.call('HSET', KEYS[1], unpack(ARGV))
end
return 1
