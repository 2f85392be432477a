-- Lay changes of items, if nobody has laid any since they were read from the log.
-- KEYS: place, sequence, said (hash: key of the change -> "<sequence> <JSON>"). ARGV: place fetched from ('': none),
-- place moved to, key, JSON, key, JSON, ... in the order of the log
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
