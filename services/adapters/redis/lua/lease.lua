-- Acquire or renew a lease.
-- KEYS: lease. ARGV: holder, ttl in ms. Returns 1 if the holder has it now, 0 if another holder has it.
if redis.call('GET', KEYS[1]) == ARGV[1] then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  return 1
end
return redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) and 1 or 0
