-- Charges units that were admitted already, as far as the counters reach: nothing is refused. It is sent behind levels.lua;
-- see acquire.lua for the states.
--
-- KEYS[i]      the counters' states; no slots are among them.
-- ARGV[1]      the time in microseconds, or empty: the server's own.
-- ARGV[1 + i]  what is charged to counter i, packed as for acquire.lua: `at_least` are the units.
--
-- A state that was made under other numbers keeps them: acquire.lua knows how to go on from there.

-- Each answers with the state after the charge, and how long it counts; or with nothing where all is charged already.
local charge = {}

charge[WINDOW] = function(raw, ask)
  local width, parts, limit, units = unpack(FOUR, ask, 2)
  local latest, total, epoch, from = now, 0, now, 33
  if raw then
    width, latest, total, epoch = unpack(FOUR, raw)
    latest = max(latest, now)
  else
    raw = ''
  end
  local index = floor(latest / width)
  while from < #raw do
    local at, charged = unpack(ENTRY, raw, from)
    if at >= index - parts then break end
    total, from = total - charged, from + 16
  end
  units = math.min(units, limit - total)
  if units <= 0 then return nil end
  -- Leases may be charged to later sub-windows; this goes before them, and joins what is charged to its own.
  local pos, last, sum = from, index, units
  if from < #raw then last = max(index, (unpack(ENTRY, raw, #raw - 15))) end
  while pos < #raw and unpack(ENTRY, raw, pos) < index do pos = pos + 16 end
  local head, tail = sub(raw, from, pos - 1), sub(raw, pos)
  if pos < #raw then
    local at, charged = unpack(ENTRY, raw, pos)
    if at == index then sum, tail = sum + charged, sub(raw, pos + 16) end
  end
  local state = pack(FOUR, width, latest, total + units, epoch) .. head .. pack(ENTRY, index, sum) .. tail
  return state, (last + parts + 1) * width - latest
end

charge[BUCKET] = function(raw, ask)
  local units = unpack('<I8', ask, 26)
  local gain, unit, burst, latest, used, epoch = bucket(raw, ask)
  units = math.min(units, floor((burst * unit - used) / unit))
  if units <= 0 then return nil end
  if used == 0 and raw then epoch = max(epoch + 1, latest) end
  used = used + units * unit
  return pack(SIX, gain, unit, burst, latest, used, epoch), ceil(used / gain)
end

charge[FIXED] = function(raw, ask)
  local _, limit, units = unpack(THREE, ask, 2)
  local length, latest, used, epoch = fixed(raw, ask)
  units = math.min(units, limit - used)
  if units <= 0 then return nil end
  return pack(FOUR, length, latest, used + units, epoch), (floor(latest / length) + 1) * length - latest
end

for i, key in ipairs(KEYS) do
  local ask = ARGV[i + 1]
  local state, life = charge[byte(ask)](call('GET', key), ask)
  if state then call('SET', key, state, 'PX', ceil(life / 1000) + SLACK_MS) end
end
return ''
