-- Add a batch to the sums of a partition and move its positions, or change nothing.
-- KEYS: positions, set of experiments, sums to drop first, then the sums of each experiment in the batch
--       (one hash tag).
-- ARGV: positions that the batch was fetched from ('': never counted), positions after it, how many sums to
--       drop, then for each experiment its name, the number of sums, and that many pairs of field and increment.
-- Returns 1 if applied, 0 if the stored positions are others, an error if a stored value is no count. All values
-- are checked before the first write, because Redis keeps what a script wrote before it failed.
local CHUNK = 1000  -- arguments that `unpack` takes
local replaced = {}  -- keys that the batch drops first

local function no_sums(key, at, count)
  local kind = redis.call('TYPE', key).ok
  if kind == 'none' then
    return nil
  elseif kind ~= 'hash' then
    return key .. ' is a ' .. kind
  end
  for from = 0, count - 1, CHUNK do
    local fields = {}
    for i = from, math.min(from + CHUNK, count) - 1 do
      fields[#fields + 1] = ARGV[at + 2 * i]
    end
    for i, stored in ipairs(redis.call('HMGET', key, unpack(fields))) do
      local digits = not stored and '' or string.match(stored, '^%-?(%d+)$')
      if not digits or #digits > 18 then
        return string.format("%s: '%s' holds '%s'", key, fields[i], string.sub(stored, 1, 40))
      end
    end
  end
end

if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then
  return 0
end
local dropped = tonumber(ARGV[3])
for i = 3, 2 + dropped do
  replaced[KEYS[i]] = true
end
local kind = redis.call('TYPE', KEYS[2]).ok
local wrong = kind ~= 'set' and kind ~= 'none' and KEYS[2] .. ' is a ' .. kind or nil
local at = 4
for i = 3 + dropped, #KEYS do
  wrong = wrong or (not replaced[KEYS[i]] and no_sums(KEYS[i], at + 2, tonumber(ARGV[at + 1])) or nil)
  at = at + 2 + 2 * tonumber(ARGV[at + 1])
end
if wrong then
  return redis.error_reply('NOSUMS ' .. wrong)
end

for i = 3, 2 + dropped do
  redis.call('DEL', KEYS[i])
end
at = 4
for i = 3 + dropped, #KEYS do
  redis.call('SADD', KEYS[2], ARGV[at])
  local pairs_here = tonumber(ARGV[at + 1])
  at = at + 2
  for _ = 1, pairs_here do
    redis.call('HINCRBY', KEYS[i], ARGV[at], ARGV[at + 1])
    at = at + 2
  end
end
redis.call('SET', KEYS[1], ARGV[2])
return 1
