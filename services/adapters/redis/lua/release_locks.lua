-- Release locks.
-- KEYS: locks. ARGV: holder. Returns how many of them the holder still had.
local held = 0
for at = 1, #KEYS do
  if redis.call('GET', KEYS[at]) == ARGV[1] then
    held = held + redis.call('DEL', KEYS[at])
  end
end
return held
