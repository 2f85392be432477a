-- Remove what was found to be no state, if it is still the same.
-- KEYS: state. ARGV: revision and body as read ('' for what is missing).
if redis.call('TYPE', KEYS[1]).ok ~= 'hash' then
  return redis.call('DEL', KEYS[1])
end
local same = (redis.call('HGET', KEYS[1], 'revision') or '') == ARGV[1]
  and (redis.call('HGET', KEYS[1], 'body') or '') == ARGV[2]
return same and redis.call('DEL', KEYS[1]) or 0
