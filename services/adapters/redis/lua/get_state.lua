-- KEYS: state (hash: revision, body). Returns both as they are; empty texts for a key of another type; nil for none.
local kind = redis.call('TYPE', KEYS[1]).ok
if kind == 'none' then
  return nil
end
if kind ~= 'hash' then
  return {'', ''}
end
return {redis.call('HGET', KEYS[1], 'revision') or '', redis.call('HGET', KEYS[1], 'body') or ''}
