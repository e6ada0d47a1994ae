-- Ends leases: what was used is charged to the moment of the settling, the rest is released, slots are released.
--
-- KEYS[2i - 1], KEYS[2i]  the counter's state and the reservation; leases and slots have no key of their own.
-- ARGV[1]                 the time in microseconds, or empty: the server's own.
-- ARGV[1 + i]             a letter for the algorithm, then
--                         w  width, parts, units used, and of a lease what acquire.lua told of it: units, expiry and epoch;
--                         b  gain, unit, burst, units used;
--                         f  length, units used;
--                         c  the lease's name.
--
-- What is unknown, settled or past its expiry is left as it is: spent whole. So is what has outlived its charge, but for
-- what was used beyond its units. Whoever holds a lease says once what was used of it.
local HELD, HELD_ENTRY, CHUNK_MAX = '<dddddd', '<dd', 20480
local PARTS_MAX, TOTAL_MAX, WINDOW_MAX = 9007199254740991, 1000000000000000, 31622400000000

-- These answer with the state and how long it counts, or keeps its life; or nothing where nothing changes. Each is told
-- units and epoch of the lease, which has not expired.

local function window(raw, ask, lease, expires, lease_epoch)
  local width, parts, used = unpack(THREE, ask, 2)
  local latest, total, epoch = now, 0, now
  if raw then
    width, latest, total, epoch = unpack(FOUR, raw)
    if latest < now then latest = now end
  else
    raw = ''
  end
  local current, index = floor(latest / width), floor(expires / width)
  -- All down to the current sub-window is written anew, without the lease's units if they are there.
  local function head(release, add)
    local entries, pos, placed, found = '', 41, add == 0, false
    while pos < #raw do
      local at, charged = unpack(ENTRY, raw, pos)
      if at < current then break end
      if at == index and release > 0 then
        found, charged = charged >= release, charged - release
      end
      if at == current and not placed then
        placed, charged = true, charged + add
      end
      if charged > 0 then entries = entries .. pack(ENTRY, at, charged) end
      pos = pos + 16
    end
    if not placed then entries = entries .. pack(ENTRY, current, add) end
    return entries .. sub(raw, pos), found
  end
  local function room(units)
    return math.min(units, TOTAL_MAX - total)
  end
  local entries, found
  if lease_epoch == epoch then
    total = total - lease
    local add = room(used)
    entries, found = head(lease, add)
    total = total + (found and add or lease)
  end
  if not found then
    local add = room(max(used - lease, 0))
    if add == 0 and raw == '' then return nil end
    entries = head(0, add)
    total = total + add
  end
  local state = sliding(width, latest, total, epoch, entries)
  -- All that is left may be sub-windows that count no more.
  local last = entries ~= '' and max(current, (unpack(ENTRY, entries))) or current
  return state, (last + parts + 1) * width - now
end

local function level(raw, ask, lease, _, lease_epoch)
  local gain, unit, burst, latest, used, epoch = bucket(raw, ask)
  local really = unpack('<I8', ask, 26)
  local back, beyond = 0, 0
  if really < lease and lease_epoch == epoch then back = math.min(used, (lease - really) * unit) end
  if really > lease then beyond = (really - lease) * unit end
  if back == 0 and beyond == 0 then return nil end
  if used == 0 and raw then epoch = max(epoch + 1, latest) end
  used = math.min(used - back + beyond, gain * WINDOW_MAX, PARTS_MAX)
  return pack(SIX, gain, unit, burst, latest, used, epoch), beyond > 0 and latest + ceil(used / gain) - now
end

local function count(raw, ask, lease, _, lease_epoch)
  local length, latest, used, epoch = fixed(raw, ask)
  local really = unpack('<I8', ask, 10)
  local back, beyond = 0, 0
  if really < lease and lease_epoch == epoch then back = math.min(used, lease - really) end
  if really > lease then beyond = really - lease end
  if back == 0 and beyond == 0 then return nil end
  used = math.min(used - back + beyond, TOTAL_MAX)
  local ends = (floor(latest / length) + 1) * length
  return pack(FOUR, length, latest, used, epoch), beyond > 0 and ends - now
end

local function release(key, ask)
  local name, raw = sub(ask, 2), call('GETRANGE', key, '-80', '-1')
  if raw == '' then return end
  local latest, held, front, size, first, kept = unpack(HELD, raw, 33)
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
  local expires, units = unpack(HELD_ENTRY, raw, at + 16)
  if units == 0 then return end
  if expires >= max(latest, now) then latest = max(latest, now) end
  held = held - units
  if from + at - 1 == front then
    -- It is passed over, and what was released behind it.
    repeat
      front = front + 80
      if front < size then
        if front >= from + #raw then from, raw = front, call('GETRANGE', key, front, front + CHUNK_MAX - 1) end
        first, units = unpack(HELD_ENTRY, raw, front - from + 17)
      end
    until front >= size or units > 0
  else
    call('SETRANGE', key, from + at + 23, pack('<d', 0))
  end
  call('SETRANGE', key, size - 48, pack(HELD, latest, held, front, size, first, kept))
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
    local raw = call('GET', key)
    local told = kind == WINDOW and #ask > 25
    local record = told and sub(ask, 26) or call('GET', reservation)
    local latest = raw and unpack('<I8', raw, kind == WINDOW and 9 or kind == BUCKET and 25 or 9) or now
    if latest < now then latest = now end
    local units, expires, epoch
    if record then units, expires, epoch = unpack(THREE, record) end
    if record and latest <= expires then
      local settled = kind == WINDOW and window or kind == BUCKET and level or count
      put(key, settled(raw, ask, units, expires, epoch))
    end
    if record and not told then call('DEL', reservation) end
  end
end
return ''
