-- Takes back what was charged, each counter by itself, from the oldest that count first.
--
-- KEYS[i]      the counter's state.
-- ARGV[1]      the time in microseconds, or empty: the server's own.
-- ARGV[1 + i]  a letter for the algorithm, then
--              w  width, parts, units to take back;
--              b  gain, unit, burst, units to take back;
--              f  length, units to take back;
--              c  nothing: slots are released, not refunded.
--
-- The answer has a double for each counter: units taken back.

-- These answer with the units taken back and the state after it.

local function window(raw, ask)
  local _, parts, units = unpack(THREE, ask, 2)
  local latest, total, epoch, width, entries, kept = opened(raw)
  if latest < now then latest = now end
  local oldest, pos = floor(latest / width) - parts, 1
  while pos < #entries and unpack(ENTRY, entries, pos) < oldest do pos = pos + 16 end
  -- What lies before stays: it counts no more, and goes with the next charge.
  local expired, rest, taken, last = sub(entries, 1, pos - 1), '', 0, 0
  while pos < #entries and taken < units do
    local index, charged = unpack(ENTRY, entries, pos)
    local back = math.min(charged, units - taken)
    taken, pos, last = taken + back, pos + 16, index
    if charged > back then rest = pack(ENTRY, index, charged - back) end
  end
  -- Of a later sub-window it is not known which lease it was charged for: all that are open count as spent whole.
  if taken > 0 and last > floor(latest / width) then epoch = max(epoch + 1, latest) end
  return taken, sliding(latest, total - taken, epoch, width, expired .. rest .. sub(entries, pos), kept)
end

local function level(raw, ask)
  local units = unpack('<d', ask, 26)
  local gain, unit, burst, latest, used, epoch = bucket(raw, ask)
  local taken = math.min(ceil(used / unit), units)
  return taken, pack(SIX, latest, max(used - taken * unit, 0), epoch, gain, unit, burst)
end

local function count(raw, ask)
  local units = unpack('<d', ask, 10)
  local length, latest, used, epoch = fixed(raw, ask)
  local taken = math.min(used, units)
  return taken, pack(FOUR, latest, used - taken, epoch, length)
end

local refunded = ''
for i = 1, #KEYS do
  local key, ask = KEYS[i], ARGV[i + 1]
  local kind = byte(ask)
  local take = kind == WINDOW and window or kind == BUCKET and level or kind == FIXED and count
  local raw = take and call('GET', key)
  local taken, state = 0, nil
  if raw then taken, state = take(raw, ask) end
  if taken > 0 then call('SET', key, state, 'KEEPTTL') end
  refunded = refunded .. pack('<d', taken)
end
return refunded
