-- Give locks back.
-- KEYS: locks. ARGV: holder. Returns how many were still the holder's.
local held = 0
for at = 1, #KEYS do
  if redis.call('GET', KEYS[at]) == ARGV[1] then
    held = held + redis.call('DEL', KEYS[at])
  end
end
return held
