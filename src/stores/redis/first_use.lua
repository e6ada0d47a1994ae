
-- Remembers that a proof was used, where nobody did: 1; 0 where it is known already; f where its key has as many as it may.
--
-- KEYS[1]  the used proofs of one key: their names, sorted by the moment at which each may be forgotten.
-- ARGV[1]  the time in microseconds, or empty: the server's own.
-- ARGV[2]  the proof's name.
-- ARGV[3]  for how long it is remembered, in microseconds.
-- ARGV[4]  c, or p to only look.
-- ARGV[5]  the most proofs of one key.
local call, used = redis.call, KEYS[1]

-- By itself Lua writes numbers with 14 digits.
local function exact(number)
  return string.format('%.0f', number)
end

local due = call('ZSCORE', used, ARGV[2])
if due and tonumber(due) > now then
  return '0'
elseif ARGV[4] == 'p' then
  return '1'
end
call('ZREMRANGEBYSCORE', used, '-inf', exact(now))
if call('ZCARD', used) >= tonumber(ARGV[5]) then
  return 'f'
end
call('ZADD', used, exact(now + ARGV[3]), ARGV[2])
local life = math.ceil(ARGV[3] / 1000)
if call('PTTL', used) < life then
  call('PEXPIRE', used, life)
end
return '1'
