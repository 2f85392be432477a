-- Apply changes of items if the position is still the one that they were fetched from.
-- KEYS: position, sequence, changes (hash: key of the change -> "<sequence> <JSON>"). ARGV: position fetched from
-- ('': none), position after the changes, then key and JSON of each change in the order of the log.
-- Returns 1 if applied, 0 if the position is another.
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then
  return 0
end
local sequence = tonumber(redis.call('GET', KEYS[2]) or '0')
for at = 3, #ARGV, 2 do
  sequence = sequence + 1
  redis.call('HSET', KEYS[3], ARGV[at], string.format('%d %s', sequence, ARGV[at + 1]))
end
redis.call('SET', KEYS[2], string.format('%d', sequence))
redis.call('SET', KEYS[1], ARGV[2])
return 1
