-- Mark the pins of experiments as complete if those of enough partitions are restored.
-- KEYS: set of restored partitions, then the mark of each experiment (one hash tag). ARGV: how many partitions.
-- Returns 1 if marked, 0 if partitions are missing.
if redis.call('SCARD', KEYS[1]) < tonumber(ARGV[1]) then
  return 0
end
for at = 2, #KEYS do
  redis.call('SET', KEYS[at], 1)
end
return 1
