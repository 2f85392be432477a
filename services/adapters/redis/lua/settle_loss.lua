-- Drop the report of a loss, if it is still this one.
-- KEYS: report; if the loss is accepted, also positions and accepted positions (one hash tag). ARGV: the report.
-- Returns 1 if dropped, 0 if there is no report by now, or another one. Positions are remembered only with a
-- report that was still there: without it counting may have begun anew, and nobody lost anything where it stands.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
if #KEYS > 1 then
  redis.call('SET', KEYS[3], redis.call('GET', KEYS[2]) or '')
end
return redis.call('DEL', KEYS[1])
