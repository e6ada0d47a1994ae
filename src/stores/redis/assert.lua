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
  local latest, total, epoch = now, 0, now
  if raw then
    width, latest, total, epoch = unpack(FOUR, raw)
    latest = max(latest, now)
  else
    raw = ''
  end
  local index, stop = floor(latest / width), #raw
  while stop > 40 do
    local at, charged = unpack(ENTRY, raw, stop - 15)
    if at >= index - parts then break end
    total, stop = total - charged, stop - 16
  end
  units = math.min(units, limit - total)
  if units <= 0 then return nil end
  -- Leases may be charged to later sub-windows; this goes behind them, and joins what is charged to its own.
  local pos, last, sum = 41, index, units
  if stop > 40 then last = max(index, (unpack(ENTRY, raw, 41))) end
  while pos < stop and unpack(ENTRY, raw, pos) > index do pos = pos + 16 end
  local head, rest = sub(raw, 41, pos - 1), pos
  if pos < stop then
    local at, charged = unpack(ENTRY, raw, pos)
    if at == index then sum, rest = sum + charged, pos + 16 end
  end
  local entries = head .. pack(ENTRY, index, sum) .. sub(raw, rest, stop)
  return sliding(width, latest, total + units, epoch, entries), (last + parts + 1) * width - now
end

charge[BUCKET] = function(raw, ask)
  local units = unpack('<I8', ask, 26)
  local gain, unit, burst, latest, used, epoch = bucket(raw, ask)
  units = math.min(units, floor((burst * unit - used) / unit))
  if units <= 0 then return nil end
  if used == 0 and raw then epoch = max(epoch + 1, latest) end
  used = used + units * unit
  return pack(SIX, gain, unit, burst, latest, used, epoch), latest + ceil(used / gain) - now
end

charge[FIXED] = function(raw, ask)
  local _, limit, units = unpack(THREE, ask, 2)
  local length, latest, used, epoch = fixed(raw, ask)
  units = math.min(units, limit - used)
  if units <= 0 then return nil end
  return pack(FOUR, length, latest, used + units, epoch), (floor(latest / length) + 1) * length - now
end

for i, key in ipairs(KEYS) do
  local ask = ARGV[i + 1]
  local state, life = charge[byte(ask)](call('GET', key), ask)
  if state then call('SET', key, state, 'PX', ceil(life / 1000) + SLACK_MS) end
end
return ''
