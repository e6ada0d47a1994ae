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
    local latest, _, _, _, _, epoch, width, _, kept = unpack('<ddddddddd', raw)
    state = pack('<ddddddddd', latest, 0, 0, 0, 0, math.max(epoch + 1, latest), width, 72, kept)
  elseif ARGV[1] == 'b' then
    local latest, _, epoch, gain, unit, burst = unpack('<dddddd', raw)
    state = pack('<dddddd', latest, 0, math.max(epoch + 1, latest), gain, unit, burst)
  elseif ARGV[1] == 'c' then
    local latest = unpack('<d', raw, #raw - 47)
    state = pack('<dddddddddd', 0, 0, 0, 0, latest, 0, 80, 80, 0, 0)
  else
    local latest, _, epoch, length = unpack('<dddd', raw)
    state = pack('<dddd', latest, 0, math.max(epoch + 1, latest), length)
  end
  call('SET', KEYS[1], state, 'KEEPTTL')
end
return ''
