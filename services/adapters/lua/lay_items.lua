-- Lay changed items over the catalogue, if nobody has changed anything since they were merged.
-- KEYS: revision, changes (hash item id -> JSON). ARGV: revision seen, new revision, item id, JSON, item id, JSON, ...
local revision = redis.call('GET', KEYS[1]) or '0'
if revision ~= ARGV[1] then
  return 0
end
for at = 3, #ARGV, 2 do
  redis.call('HSET', KEYS[2], ARGV[at], ARGV[at + 1])
end
redis.call('SET', KEYS[1], ARGV[2])
return 1
