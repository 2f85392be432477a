-- Store a heartbeat, drop expired ones, and return the bodies of all live replicas.
-- KEYS: bodies by replica, expiry by replica (sorted set, ms of the server's clock, so that hosts may differ).
-- ARGV: replica, body, ttl in ms; none to read only.
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
if #ARGV > 0 then
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
  redis.call('ZADD', KEYS[2], now_ms + ARGV[3], ARGV[1])
end
for _, expired in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now_ms)) do
  redis.call('HDEL', KEYS[1], expired)
  redis.call('ZREM', KEYS[2], expired)
end
return redis.call('HVALS', KEYS[1])
