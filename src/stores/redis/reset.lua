-- Forgets what was charged to a counter, or who holds it. Its time stays, and a new epoch leaves open leases nothing to
-- give back.
--
-- KEYS[1]  the counter's state (see acquire.lua).
-- ARGV[1]  the letter for its algorithm.
local call, pack, unpack = redis.call, struct.pack, struct.unpack

local function holders(key)
  local latest, life = call('ZSCORE', key, ''), call('PTTL', key)
  if latest then
    call('DEL', key)
    call('ZADD', key, latest, '')
    call('PEXPIRE', key, life)
  end
end

local function charges(key)
  local raw = call('GET', key)
  if not raw then return end
  local state
  if ARGV[1] == 'w' then
    local width, latest, _, epoch = unpack('<I8I8I8I8', raw)
    state = pack('<I8I8I8I8I8', width, latest, 0, math.max(epoch + 1, latest), 0)
  elseif ARGV[1] == 'b' then
    local gain, unit, burst, latest, _, epoch = unpack('<I8I8I8I8I8I8', raw)
    state = pack('<I8I8I8I8I8I8', gain, unit, burst, latest, 0, math.max(epoch + 1, latest))
  else
    local length, latest, _, epoch = unpack('<I8I8I8I8', raw)
    state = pack('<I8I8I8I8', length, latest, 0, math.max(epoch + 1, latest))
  end
  call('SET', key, state, 'KEEPTTL')
end

if ARGV[1] == 'c' then holders(KEYS[1]) else charges(KEYS[1]) end
return ''
