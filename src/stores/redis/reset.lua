-- Forgets what was charged to a counter, or who holds it. Its time stays, and a new epoch leaves open leases nothing to
-- give back.
--
-- KEYS[1]  the counter's state (see acquire.lua).
-- ARGV[1]  the letter for its algorithm.
local call, pack, unpack = redis.call, struct.pack, struct.unpack

local raw = call('GET', KEYS[1])
if raw then
  local state
  if ARGV[1] == 'w' then
    local width, latest, _, epoch = unpack('<I8I8I8I8', raw)
    state = pack('<I8I8I8I8I8', width, latest, 0, math.max(epoch + 1, latest), 0)
  elseif ARGV[1] == 'b' then
    local gain, unit, burst, latest, _, epoch = unpack('<I8I8I8I8I8I8', raw)
    state = pack('<I8I8I8I8I8I8', gain, unit, burst, latest, 0, math.max(epoch + 1, latest))
  elseif ARGV[1] == 'c' then
    local latest = unpack('<d', raw, #raw - 47)
    state = pack('<dddddddddd', 0, 0, 0, 0, latest, 0, 80, 80, 0, 0)
  else
    local length, latest, _, epoch = unpack('<I8I8I8I8', raw)
    state = pack('<I8I8I8I8', length, latest, 0, math.max(epoch + 1, latest))
  end
  call('SET', KEYS[1], state, 'KEEPTTL')
end
return ''
