-- Delete the report of a data loss if it is still this one.
-- KEYS: report; to accept the loss also positions and accepted positions (one hash tag). ARGV: the report.
-- Returns 1 if deleted, 0 if there is no report or another one. Positions are stored as accepted only if the
-- report was still there: without it counting may have restarted, and nothing is lost at the positions of now.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
if #KEYS > 1 then
  redis.call('SET', KEYS[3], redis.call('GET', KEYS[2]) or '')
end
return redis.call('DEL', KEYS[1])
