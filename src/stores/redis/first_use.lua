-- Remembers that a proof was used, where nobody did: 1, or 0 where it is known already.
-- KEYS[1] the proof; ARGV[1] for how many milliseconds, ARGV[2] 'c', or 'p' to only look.
if ARGV[2] == 'p' then
  return redis.call('GET', KEYS[1]) and '0' or '1'
end
return redis.call('SET', KEYS[1], '', 'NX', 'PX', ARGV[1]) and '1' or '0'
