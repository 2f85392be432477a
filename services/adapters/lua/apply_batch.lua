-- Add a batch to the sums of a partition and move its positions, or do nothing.
-- KEYS: positions, set of experiments, sums to be dropped first, then the sums of each experiment in the batch
--       (one hash tag).
-- ARGV: positions the batch was fetched from ('' = never counted), positions after it, how many sums are
--       dropped, then for each experiment its name, the number of sums, and that many pairs of field and
--       increment.
-- Returns 1 if applied, 0 if the stored positions are others.
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then
  return 0
end
local dropped = tonumber(ARGV[3])
for i = 3, 2 + dropped do
  redis.call('DEL', KEYS[i])
end
local at = 4
for i = 3 + dropped, #KEYS do
  redis.call('SADD', KEYS[2], ARGV[at])
  local pairs_here = tonumber(ARGV[at + 1])
  at = at + 2
  for _ = 1, pairs_here do
    redis.call('HINCRBY', KEYS[i], ARGV[at], ARGV[at + 1])
    at = at + 2
  end
end
redis.call('SET', KEYS[1], ARGV[2])
return 1
