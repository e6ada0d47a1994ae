-- Ends leases: what was used is charged to the moment of the settling, the rest is released, slots are released.
--
-- KEYS[2i - 1], KEYS[2i]  the counter's state, and where its reservation is written down; leases and slots are nowhere
--                         else, and have the state twice.
-- ARGV[1]                 the time in microseconds, or empty: the server's own.
-- ARGV[1 + i]             a letter for the algorithm, then
--                         w  width, parts, units used, and of a lease what acquire.lua told of it: units, expiry and epoch;
--                         b  gain, unit, burst, units used;
--                         f  length, units used;
--                         c  the lease's name;
--                         and of a reservation its mark (a double).
--
-- What is unknown, settled or past its expiry is left as it is: spent whole. So is what has outlived its charge, but for
-- what was used beyond its units. Whoever holds a lease says once what was used of it.
local HELD, CHUNK_MAX = '<dddddd', 20480
local PARTS_MAX, TOTAL_MAX, WINDOW_MAX = 9007199254740991, 1000000000000000, 31622400000000

-- These answer with the state and how long it counts, or keeps its life; or nothing where nothing changes. Each is told
-- units and epoch of the lease, which has not expired.

local function window(raw, ask, lease, expires, lease_epoch)
  local width, parts, used = unpack(THREE, ask, 2)
  local latest, total, epoch, entries = now, 0, now, ''
  if raw then
    latest, total, epoch, width, entries = opened(raw)
    if latest < now then latest = now end
  end
  local current, index = floor(latest / width), floor(expires / width)
  -- All from the current sub-window on is written anew, without the lease's units if they are there.
  local function changed(release, add)
    local tail, pos, placed, found = '', #entries - 15, add == 0, false
    while pos > 0 do
      local at, charged = unpack(ENTRY, entries, pos)
      if at < current then break end
      if at == index and release > 0 then
        found, charged = charged >= release, charged - release
      end
      if at == current and not placed then
        placed, charged = true, charged + add
      end
      if charged > 0 then tail = pack(ENTRY, at, charged) .. tail end
      pos = pos - 16
    end
    if not placed then tail = pack(ENTRY, current, add) .. tail end
    return sub(entries, 1, pos + 15) .. tail, found
  end
  local function room(units)
    return math.min(units, TOTAL_MAX - total)
  end
  local after, found
  if lease_epoch == epoch then
    total = total - lease
    local add = room(used)
    after, found = changed(lease, add)
    total = total + (found and add or lease)
  end
  if not found then
    local add = room(max(used - lease, 0))
    if add == 0 and not raw then return nil end
    after = changed(0, add)
    total = total + add
  end
  -- All that is left may be sub-windows that count no more.
  local last = after ~= '' and max(current, (unpack(ENTRY, after, #after - 15))) or current
  local ends = (last + parts + 1) * width
  return sliding(latest, total, epoch, width, after, ends), ends - now
end

local function level(raw, ask, lease, _, lease_epoch)
  local gain, unit, burst, latest, used, epoch = bucket(raw, ask)
  local really = unpack('<d', ask, 26)
  local back, beyond = 0, 0
  if really < lease and lease_epoch == epoch then back = math.min(used, (lease - really) * unit) end
  if really > lease then beyond = (really - lease) * unit end
  if back == 0 and beyond == 0 then return nil end
  if used == 0 and raw then epoch = max(epoch + 1, latest) end
  used = math.min(used - back + beyond, gain * WINDOW_MAX, PARTS_MAX)
  return pack(SIX, latest, used, epoch, gain, unit, burst), beyond > 0 and latest + ceil(used / gain) - now
end

local function count(raw, ask, lease, _, lease_epoch)
  local length, latest, used, epoch = fixed(raw, ask)
  local really = unpack('<d', ask, 10)
  local back, beyond = 0, 0
  if really < lease and lease_epoch == epoch then back = math.min(used, lease - really) end
  if really > lease then beyond = really - lease end
  if back == 0 and beyond == 0 then return nil end
  used = math.min(used - back + beyond, TOTAL_MAX)
  local ends = (floor(latest / length) + 1) * length
  return pack(FOUR, latest, used, epoch, length), beyond > 0 and ends - now
end

local function release(key, ask)
  local name, raw = sub(ask, 2), call('GETRANGE', key, '-48', '-1')
  if raw == '' then return end
  local latest, held, front, size, first, kept = unpack(HELD, raw)
  -- What was taken long ago is sought most, so a few entries are read at first, then more at a time.
  local from, length, at = front, 640, nil
  while not at do
    if from >= size then return end
    raw, at = call('GETRANGE', key, from, from + length - 1), 0
    -- A name is where entries begin, and not in numbers that look like it.
    repeat
      at = string.find(raw, name, at + 1, true)
    until not at or at % 80 == 1
    if not at then from, length = from + length, math.min(2 * length, CHUNK_MAX) end
  end
  local expires, units = unpack(ENTRY, raw, at + 16)
  if units == 0 then return end
  if expires >= max(latest, now) then latest = max(latest, now) end
  held = held - units
  if from + at - 1 == front then
    -- It is passed over, and what was released behind it.
    repeat
      front = front + 80
      if front < size then
        if front >= from + #raw then from, raw = front, call('GETRANGE', key, front, front + CHUNK_MAX - 1) end
        first, units = unpack(ENTRY, raw, front - from + 17)
      end
    until front >= size or units > 0
  else
    call('SETRANGE', key, from + at + 23, pack('<d', 0))
  end
  call('SETRANGE', key, size - 48, pack(HELD, latest, held, front, size, first, kept))
end

-- Units, expiry and epoch of a reservation, once. The last of those that are written down together takes all with it.
local function taken(key, mark)
  local raw, at = call('GET', key), 0
  if not raw then return end
  repeat
    at = string.find(raw, mark, at + 1, true)
  until not at or at % 32 == 1
  if not at then return end
  if string.find(sub(raw, 1, at - 1) .. sub(raw, at + 32), '[^%z]') then
    call('SETRANGE', key, at - 1, string.rep('\0', 32))
  else
    call('DEL', key)
  end
  return unpack(THREE, raw, at + 8)
end

local function put(key, state, life)
  if not state then return end
  if life then
    call('SET', key, state, 'PX', ceil(life / 1000) + SLACK_MS)
  else
    call('SET', key, state, 'KEEPTTL')
  end
end

for i = 1, #ARGV - 1 do
  local key, reservation, ask = KEYS[2 * i - 1], KEYS[2 * i], ARGV[i + 1]
  local kind = byte(ask)
  if kind == SLOTS then
    release(key, ask)
  else
    local units, expires, epoch
    if key == reservation then
      units, expires, epoch = unpack(THREE, ask, 26)
    else
      units, expires, epoch = taken(reservation, sub(ask, -8))
    end
    local raw = call('GET', key)
    local latest = raw and unpack('<d', raw) or now
    if latest < now then latest = now end
    if units and latest <= expires then
      local settled = kind == WINDOW and window or kind == BUCKET and level or count
      put(key, settled(raw, ask, units, expires, epoch))
    end
  end
end
return ''
