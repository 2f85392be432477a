-- Positions, watermark, the type of what is kept as sums of one experiment, and the sums, as of one moment.
-- KEYS: positions, watermark, sums (one hash tag). Missing values are nil.
local kind = redis.call('TYPE', KEYS[3]).ok
local sums = kind == 'hash' and redis.call('HGETALL', KEYS[3]) or {}
return {redis.call('GET', KEYS[1]), redis.call('GET', KEYS[2]), kind, sums}
