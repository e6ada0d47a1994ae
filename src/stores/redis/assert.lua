-- Charges units that were admitted already, as far as the counters reach: nothing is refused. It is sent behind levels.lua;
-- see acquire.lua for the states.
--
-- KEYS[i]      the counters' states; no slots are among them.
-- ARGV[1]      the time in microseconds, or empty: the server's own.
-- ARGV[1 + i]  what is charged to counter i, packed as for acquire.lua, each by itself: `at_least` are the units.
--
-- A state that was made under other numbers keeps them: acquire.lua knows how to go on from there.

-- Each answers with the state after the charge, and how long it counts; or with nothing where all is charged already.
local charge = {}

charge[WINDOW] = function(raw, ask)
  local width, parts, limit, units = unpack(FOUR, ask, 2)
  local latest, total, epoch, entries = now, 0, now, ''
  if raw then
    latest, total, epoch, width, entries = opened(raw)
    latest = max(latest, now)
  end
  local index, start = floor(latest / width), 1
  while start < #entries do
    local at, charged = unpack(ENTRY, entries, start)
    if at >= index - parts then break end
    total, start = total - charged, start + 16
  end
  units = math.min(units, limit - total)
  if units <= 0 then return nil end
  -- Leases may be charged to later sub-windows; this goes before them, and joins what is charged to its own.
  local pos, last, sum = #entries - 15, index, units
  if pos >= start then last = max(index, (unpack(ENTRY, entries, pos))) end
  while pos >= start and unpack(ENTRY, entries, pos) > index do pos = pos - 16 end
  local rest = pos + 16
  if pos >= start then
    local at, charged = unpack(ENTRY, entries, pos)
    if at == index then sum, pos = sum + charged, pos - 16 end
  end
  entries = sub(entries, start, pos + 15) .. pack(ENTRY, index, sum) .. sub(entries, rest)
  local ends = (last + parts + 1) * width
  return sliding(latest, total + units, epoch, width, entries, ends), ends - now
end

charge[BUCKET] = function(raw, ask)
  local units = unpack('<d', ask, 26)
  local gain, unit, burst, latest, used, epoch = bucket(raw, ask)
  units = math.min(units, floor((burst * unit - used) / unit))
  if units <= 0 then return nil end
  if used == 0 and raw then epoch = max(epoch + 1, latest) end
  used = used + units * unit
  return pack(SIX, latest, used, epoch, gain, unit, burst), latest + ceil(used / gain) - now
end

charge[FIXED] = function(raw, ask)
  local _, limit, units = unpack(THREE, ask, 2)
  local length, latest, used, epoch = fixed(raw, ask)
  units = math.min(units, limit - used)
  if units <= 0 then return nil end
  return pack(FOUR, latest, used + units, epoch, length), (floor(latest / length) + 1) * length - now
end

for i, key in ipairs(KEYS) do
  local ask = ARGV[i + 1]
  local state, life = charge[byte(ask)](call('GET', key), ask)
  if state then call('SET', key, state, 'PX', ceil(life / 1000) + SLACK_MS) end
end
return ''
