-- What settle.lua and refund.lua share: each is sent behind this. See acquire.lua for the states and for what is asked.
local call, pack, unpack = redis.call, struct.pack, struct.unpack
local byte, sub, floor, ceil, max = string.byte, string.sub, math.floor, math.ceil, math.max
local SIX, FOUR, THREE, ENTRY = '<I8I8I8I8I8I8', '<I8I8I8I8', '<I8I8I8', '<I8I8'
local SLACK_MS = 1000
local WINDOW, BUCKET, FIXED, SLOTS = 119, 98, 102, 99 -- w, b, f, c

-- The state of a sliding window whose sub-windows are these.
local function sliding(width, latest, total, epoch, entries)
  local oldest = entries ~= '' and unpack(ENTRY, entries, #entries - 15) or 0
  return pack(FOUR, width, latest, total, epoch) .. pack('<I8', oldest) .. entries
end

-- A bucket as of now, full where there is none: gain, unit, burst, latest, used, epoch.
local function bucket(raw, ask)
  if not raw then
    local gain, unit, burst = unpack(THREE, ask, 2)
    return gain, unit, burst, now, 0, now
  end
  local gain, unit, burst, latest, used, epoch = unpack(SIX, raw)
  if latest < now then
    -- Compared first: the product might not be exact otherwise.
    if now - latest >= ceil(used / gain) then used = 0 else used = used - (now - latest) * gain end
    latest = now
  end
  return gain, unit, burst, latest, used, epoch
end

-- A fixed window as of now, unused where there is none: length, latest, used, epoch.
local function fixed(raw, ask)
  if not raw then
    return (unpack('<I8', ask, 2)), now, 0, now
  end
  local length, latest, used, epoch = unpack(FOUR, raw)
  if latest < now then
    if floor(latest / length) < floor(now / length) then used, epoch = 0, max(epoch + 1, now) end
    latest = now
  end
  return length, latest, used, epoch
end
