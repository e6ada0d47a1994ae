-- Forgets what was charged to a counter, or who holds it. Its time stays, and a new epoch leaves open leases nothing to
-- give back.
--
-- KEYS[1]  the counter's state (see acquire.lua).
-- ARGV[1]  the letter for its algorithm.
local pack, unpack = struct.pack, struct.unpack
local raw = redis.call('GET', KEYS[1])
if raw then
  local state
  if ARGV[1] == 'w' then
    local width, latest, _, epoch = unpack('<I8I8I8I8', raw)
    state = pack('<I8I8I8I8', width, latest, 0, math.max(epoch + 1, latest))
  elseif ARGV[1] == 'b' then
    local gain, unit, burst, latest, _, epoch = unpack('<I8I8I8I8I8I8', raw)
    state = pack('<I8I8I8I8I8I8', gain, unit, burst, latest, 0, math.max(epoch + 1, latest))
  elseif ARGV[1] == 'f' then
    local length, latest, _, epoch = unpack('<I8I8I8I8', raw)
    state = pack('<I8I8I8I8', length, latest, 0, math.max(epoch + 1, latest))
  else
    state = pack('<I8I8', unpack('<I8', raw), 0)
  end
  redis.call('SET', KEYS[1], state, 'KEEPTTL')
end
return ''
