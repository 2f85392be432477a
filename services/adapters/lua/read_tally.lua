-- Positions, watermark and the sums of one experiment, as of one moment.
-- KEYS: positions, watermark, sums (one hash tag). Missing values are nil.
return {redis.call('GET', KEYS[1]), redis.call('GET', KEYS[2]), redis.call('HGETALL', KEYS[3])}
