-- Charges units that were admitted already, as far as the counters reach: nothing is refused (see acquire.lua for the
-- states).
--
-- KEYS[i]      the counters' states.
-- ARGV[1]      the time in microseconds, or empty: the server's own.
-- ARGV[1 + i]  what is charged to counter i, packed as for acquire.lua: `at_least` are the units.
--
-- A state that was made under other numbers keeps them: acquire.lua knows how to go on from there.
local call, pack, unpack, floor, ceil = redis.call, struct.pack, struct.unpack, math.floor, math.ceil
local FOUR, THREE, ENTRY = '<I8I8I8I8', '<I8I8I8', '<I8I8'
local SLACK_MS = 1000

local now
if ARGV[1] == '' then
  local time = call('TIME')
  now = time[1] * 1000000 + time[2]
else
  now = tonumber(ARGV[1])
end

-- Each answers with the state after the charge, and how long it counts; or with nothing where all is charged already.
local charge = {}

function charge.w(raw, ask)
  local width, parts, limit, units = unpack(FOUR, ask, 2)
  local latest, total, epoch, from = now, 0, now, 33
  if raw then
    width, latest, total, epoch = unpack(FOUR, raw)
    if latest < now then latest = now end
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
  local pos, last = from, index
  if #raw >= from then last = math.max(index, (unpack(ENTRY, raw, #raw - 15))) end
  while pos < #raw and unpack(ENTRY, raw, pos) < index do pos = pos + 16 end
  local head, tail, sum = string.sub(raw, from, pos - 1), string.sub(raw, pos), units
  if pos < #raw then
    local at, charged = unpack(ENTRY, raw, pos)
    if at == index then sum, tail = sum + charged, string.sub(raw, pos + 16) end
  end
  local state = pack(FOUR, width, latest, total + units, epoch) .. head .. pack(ENTRY, index, sum) .. tail
  return state, (last + parts + 1) * width - latest
end

function charge.b(raw, ask)
  local gain, unit, burst, units = unpack(FOUR, ask, 2)
  local latest, used = now, 0
  if raw then
    unit, latest, used = unpack(THREE, raw)
    if latest < now then
      if now - latest >= ceil(used / gain) then used = 0 else used = used - (now - latest) * gain end
      latest = now
    end
  end
  units = math.min(units, floor((burst * unit - used) / unit))
  if units <= 0 then return nil end
  used = used + units * unit
  return pack(THREE, unit, latest, used), ceil(used / gain)
end

function charge.f(raw, ask)
  local length, limit, units = unpack(THREE, ask, 2)
  local latest, used = now, 0
  if raw then
    latest, used = unpack(ENTRY, raw)
    if latest < now then
      if floor(latest / length) < floor(now / length) then used = 0 end
      latest = now
    end
  end
  units = math.min(units, limit - used)
  if units <= 0 then return nil end
  return pack(ENTRY, latest, used + units), (floor(latest / length) + 1) * length - latest
end

for i, key in ipairs(KEYS) do
  local ask = ARGV[i + 1]
  local state, life = charge[string.sub(ask, 1, 1)](call('GET', key), ask)
  if state then call('SET', key, state, 'PX', ceil(life / 1000) + SLACK_MS) end
end
return ''
