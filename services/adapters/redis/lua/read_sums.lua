-- Read positions, watermark, the type of the key of the sums, and the sums, all as of one moment.
-- KEYS: positions, watermark, sums (one hash tag). Missing values are nil.
local kind = redis.call('TYPE', KEYS[3]).ok
local sums = kind == 'hash' and redis.call('HGETALL', KEYS[3]) or {}
return {redis.call('GET', KEYS[1]), redis.call('GET', KEYS[2]), kind, sums}
