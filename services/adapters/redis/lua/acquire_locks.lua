-- Acquire the locks that are free.
-- KEYS: locks. ARGV: holder, ttl in ms. Returns for each lock 1 if the holder has it now, 0 if another holder has it.
local acquired = {}
for at = 1, #KEYS do
  local free = redis.call('SET', KEYS[at], ARGV[1], 'NX', 'PX', ARGV[2])
  if not free and redis.call('GET', KEYS[at]) == ARGV[1] then
    free = redis.call('PEXPIRE', KEYS[at], ARGV[2])
  end
  acquired[at] = free and 1 or 0
end
return acquired
