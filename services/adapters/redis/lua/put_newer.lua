-- Store a state unless the stored one is as new.
-- KEYS: state (hash: revision, body). ARGV: revision, body. Returns 1 if stored, 0 if not.
local stored = tonumber(redis.call('HGET', KEYS[1], 'revision') or '-1')
if stored >= tonumber(ARGV[1]) then
  return 0
end
redis.call('HSET', KEYS[1], 'revision', ARGV[1], 'body', ARGV[2])
return 1
