-- Ends leases: the units used move to the sub-window of now, the rest is released (see acquire.lua for the state).
--
-- KEYS[2i - 1], KEYS[2i]  the counter's state and the lease.
-- ARGV[1]                 the time in microseconds, or empty: the server's own.
-- ARGV[1 + i]             units used.
--
-- A lease that is unknown, settled, past its expiry or of another epoch is left as it is: spent whole.
local pack, unpack = struct.pack, struct.unpack
local HEAD, ENTRY = '<I8I8I8I8', '<I8I8'

local now
if ARGV[1] == '' then
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
else
  now = tonumber(ARGV[1])
end

-- The state after the lease has ended; nothing where it cannot end any more.
local function settled(raw, record, used)
  local index, units, expires, lease_epoch = unpack('<I8I8I8I8', record)
  local width, latest, total, epoch = unpack(HEAD, raw)
  if latest < now then latest = now end
  if latest > expires or lease_epoch ~= epoch then return nil end
  if used > units then used = units end
  local current = math.floor(latest / width)
  local tail, pos, found, placed = '', #raw - 15, false, used == 0
  while pos >= 33 do
    local at, charged = unpack(ENTRY, raw, pos)
    if at < current then break end
    if at == index then
      found, charged = charged >= units, charged - units
    end
    if at == current and not placed then
      placed, charged = true, charged + used
    end
    if charged > 0 then tail = pack(ENTRY, at, charged) .. tail end
    pos = pos - 16
  end
  if not found then return nil end
  if not placed then tail = pack(ENTRY, current, used) .. tail end
  return pack(HEAD, width, latest, total - units + used, epoch) .. string.sub(raw, 33, pos + 15) .. tail
end

for i = 1, #ARGV - 1 do
  local key, lease = KEYS[2 * i - 1], KEYS[2 * i]
  local record = redis.call('GET', lease)
  local raw = record and redis.call('GET', key)
  local state = raw and settled(raw, record, tonumber(ARGV[i + 1]))
  if state then
    redis.call('SET', key, state, 'KEEPTTL')
    redis.call('DEL', lease)
  end
end
return ''
