-- Take what nobody else holds.
-- KEYS: locks. ARGV: holder, ttl in ms. Returns for each 1 if it is the holder's now, 0 if somebody else holds it.
local taken = {}
for at = 1, #KEYS do
  local free = redis.call('SET', KEYS[at], ARGV[1], 'NX', 'PX', ARGV[2])
  if not free and redis.call('GET', KEYS[at]) == ARGV[1] then
    free = redis.call('PEXPIRE', KEYS[at], ARGV[2])
  end
  taken[at] = free and 1 or 0
end
return taken
