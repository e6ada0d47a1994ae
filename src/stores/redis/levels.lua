-- What settle.lua, refund.lua and assert.lua share: each is sent behind this. See acquire.lua for the states and for what is asked.
local call, pack, unpack = redis.call, struct.pack, struct.unpack
local byte, sub, floor, ceil, max = string.byte, string.sub, math.floor, math.ceil, math.max
local NINE, SIX, FOUR, THREE, ENTRY = '<ddddddddd', '<dddddd', '<dddd', '<ddd', '<dd'
local SLACK_MS = 1000
local WINDOW, BUCKET, FIXED, SLOTS = 119, 98, 102, 99 -- w, b, f, c

-- A sliding window: latest, total, epoch, width, its sub-windows in use, oldest first, and until when it is kept.
local function opened(raw)
  local latest, total, charged, newest, _, epoch, width, front, kept = unpack(NINE, raw)
  local entries = sub(raw, front + 1)
  if charged > 0 then entries = entries .. pack(ENTRY, newest, charged) end
  return latest, total, epoch, width, entries, kept
end

-- The state of a sliding window whose sub-windows are these.
local function sliding(latest, total, epoch, width, entries, kept)
  local first, newest, charged = 0, 0, 0
  if entries ~= '' then
    first = unpack(ENTRY, entries)
    newest, charged = unpack(ENTRY, entries, #entries - 15)
  end
  return pack('<dddddddddc0', latest, total, charged, newest, first, epoch, width, 72, kept, sub(entries, 1, -17))
end

-- A bucket as of now, full where there is none: gain, unit, burst, latest, used, epoch.
local function bucket(raw, ask)
  if not raw then
    local gain, unit, burst = unpack(THREE, ask, 2)
    return gain, unit, burst, now, 0, now
  end
  local latest, used, epoch, gain, unit, burst = unpack(SIX, raw)
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
    return (unpack('<d', ask, 2)), now, 0, now
  end
  local latest, used, epoch, length = unpack(FOUR, raw)
  if latest < now then
    if floor(latest / length) < floor(now / length) then used, epoch = 0, max(epoch + 1, now) end
    latest = now
  end
  return length, latest, used, epoch
end
