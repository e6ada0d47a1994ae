-- Asks counters for units, all or none: the algorithms of domain/window.rs, bucket.rs, fixed.rs and slots.rs, word for word.
--
-- KEYS[1..n]   the counters' states; after them one key for the lease of each counter that is asked with a hold. Without
--              those keys, no more than at_least is granted, for as long, and it cannot be settled.
-- ARGV[1]      the time in microseconds, or empty: the server's own.
-- ARGV[2]      c to consume, p to peek.
-- ARGV[2 + i]  what is asked of counter i, packed: a letter for its algorithm, then integers of 8 bytes:
--              w  sliding window: width, parts, limit, at_least, at_most, hold;
--              b  token bucket: gain, unit, burst, at_least, hold;
--              f  fixed window: length, limit, at_least, hold;
--              c  concurrency: limit, hold, at_least, then the lease's name (16 bytes).
--
-- A state is a string of integers of 8 bytes:
--   sliding window  width, latest time, total and epoch, then index and units of each sub-window in use, oldest first;
--   token bucket    gain, unit, burst, latest time, parts used, epoch;
--   fixed window    length, latest time, units used, epoch;
--   concurrency     latest time and units held, then of each holder expiry, units and name, the earliest first.
-- A lease of the first three is a key of its own: units, expiry and epoch. The epoch changes when leases taken so far
-- outlive their charges. Numbers are exact below 2^53. A refusal and a peek write nothing.
--
-- The answer is packed too, which is cheaper than an array, with four integers a counter: 0, 1 or 2 for granted, short
-- or never; units granted or the time to wait; units left; the time until some return.
local call, pack, unpack = redis.call, struct.pack, struct.unpack
local byte, sub, floor, ceil = string.byte, string.sub, math.floor, math.ceil
local FOUR, THREE, ENTRY = '<I8I8I8I8', '<I8I8I8', '<I8I8'
local SLACK_MS = 1000
local WINDOW, BUCKET, FIXED = 119, 98, 102 -- w, b, f

local now
if ARGV[1] == '' then
  local time = call('TIME')
  now = time[1] * 1000000 + time[2]
else
  now = tonumber(ARGV[1])
end

-- These answer with the outcome, units granted or the time to wait, units left, the time until some return; and, where
-- units are granted, that time after the charge, the state after it, how long it counts, and the lease, if one is held.

local function bucket(raw, ask)
  local gain, unit, burst, units, hold = unpack('<I8I8I8I8I8', ask, 2)
  local latest, used, epoch = now, 0, now
  if raw then
    local _, old, old_burst
    _, old, old_burst, latest, used, epoch = unpack('<I8I8I8I8I8I8', raw)
    if old ~= unit then
      used = math.min(ceil(used / old), burst) * unit
    elseif old_burst ~= burst and used > burst * unit then
      used = burst * unit
    end
    if latest < now then
      -- Compared first: the product might not be exact otherwise.
      if now - latest >= ceil(used / gain) then used = 0 else used = used - (now - latest) * gain end
      latest = now
    end
  end
  -- Less than nothing where more was used than the bucket holds.
  local free = burst * unit - used
  local left = free > 0 and floor(free / unit) or 0
  local next_back = latest + ceil(((left + 1) * unit - free) / gain) - now
  local returns = used > 0 and next_back or 0
  if units > burst then return 2, 0, left, returns end
  if units > left then return 1, latest + ceil((units * unit - free) / gain) - now, left, returns end
  if used == 0 and raw then epoch = math.max(epoch + 1, latest) end
  used = used + units * unit
  local state = pack('<I8I8I8I8I8I8', gain, unit, burst, latest, used, epoch)
  local lease = hold > 0 and pack(THREE, units, latest + hold, epoch)
  return 0, units, left, returns, next_back, state, ceil(used / gain), lease, hold
end

local function fixed(raw, ask)
  local length, limit, units, hold = unpack(FOUR, ask, 2)
  local latest, used, epoch = now, 0, now
  if raw then
    local _
    _, latest, used, epoch = unpack(FOUR, raw)
    if latest < now then
      if floor(latest / length) < floor(now / length) then used, epoch = 0, math.max(epoch + 1, now) end
      latest = now
    end
  end
  local ends = (floor(latest / length) + 1) * length
  local left = limit - used
  if left < 0 then left = 0 end
  local returns = used > 0 and ends - now or 0
  if units > limit then return 2, 0, left, returns end
  if units > left then return 1, ends - now, left, returns end
  local lease = hold > 0 and pack(THREE, units, latest + hold, epoch)
  return 0, units, left, returns, ends - now, pack(FOUR, length, latest, used + units, epoch), ends - latest, lease, hold
end

local function slots(raw, ask)
  local limit, hold, units = unpack(THREE, ask, 2)
  local name = sub(ask, 26)
  local latest, held, from, size = now, 0, 17, 0
  if raw then
    latest, held = unpack(ENTRY, raw)
    if latest < now then latest = now end
    -- What the same name holds is held no more.
    local at = string.find(raw, name, 33, true)
    while at and at % 32 ~= 1 do at = string.find(raw, name, at + 1, true) end
    if at then
      local _, own = unpack(ENTRY, raw, at - 16)
      raw, held = sub(raw, 1, at - 17) .. sub(raw, at + 16), held - own
    end
    size = #raw
  end
  local first
  while from < size do
    local expires, back = unpack(ENTRY, raw, from)
    if expires > latest then
      first = expires
      break
    end
    held, from = held - back, from + 32
  end
  local left = limit - held
  if left < 0 then left = 0 end
  local returns = first and first - now or 0
  if units > limit then return 2, 0, left, returns end
  if units > left then
    local freed, pos, expires, back = 0, from, nil, nil
    repeat
      expires, back = unpack(ENTRY, raw, pos)
      freed, pos = freed + back, pos + 32
    until held - freed + units <= limit
    return 1, expires - now, left, returns
  end
  -- After those that come back no later: nearly always at the end.
  local expires, pos, last = latest + hold, size + 1, latest + hold
  if first then
    last = math.max(last, (unpack(ENTRY, raw, size - 31)))
    while pos > from and unpack(ENTRY, raw, pos - 32) > expires do pos = pos - 32 end
  end
  local state = pack(ENTRY, latest, held + units)
  if first then state = state .. sub(raw, from, pos - 1) end
  state = state .. pack(ENTRY, expires, units) .. name
  if first then state = state .. sub(raw, pos) end
  local soonest = first and first < expires and first or expires
  return 0, units, left, returns, soonest - now, state, last - latest
end

local asked, consume = #ARGV - 2, ARGV[2] == 'c'
-- What to answer if all grant, and if one refuses. What to write: key, value and life in turns.
local spent, unspent, writes, lease = '', '', nil, asked
-- The states that counters of this very call have by now.
local states = asked > 1 and {}

for i = 1, asked do
  local key, ask = KEYS[i], ARGV[i + 2]
  local raw = states and states[key] or call('GET', key)
  local kind = byte(ask)
  if kind == WINDOW then
    local width, parts, limit, at_least, at_most, hold = unpack('<I8I8I8I8I8I8', ask, 2)
    local latest, total, epoch, from, size = now, 0, now, 33, 0
    local keeps_life = raw
    if raw then
      local cut
      cut, latest, total, epoch = unpack(FOUR, raw)
      if cut ~= width then
        -- The same charges under another width, none of them earlier than it was.
        local body, last, sum = '', nil, 0
        for pos = 33, #raw, 16 do
          local index, units = unpack(ENTRY, raw, pos)
          index = floor(((index + 1) * cut - 1) / width)
          if last and last ~= index then
            body, sum = body .. pack(ENTRY, last, sum), 0
          end
          last, sum = index, sum + units
        end
        if last then body = body .. pack(ENTRY, last, sum) end
        epoch, keeps_life = math.max(epoch + 1, latest), false
        raw = pack(FOUR, width, latest, total, epoch) .. body
      end
      if latest < now then latest = now end
      size = #raw
    end

    -- Whatever lies before the oldest sub-window that counts is passed over.
    local oldest, first = floor(latest / width) - parts, nil
    while from < size do
      local index, units = unpack(ENTRY, raw, from)
      if index >= oldest then
        first = index
        break
      end
      total, from = total - units, from + 16
    end

    if hold > 0 then
      lease = lease + 1
      if not KEYS[lease] then at_most = at_least end
    end
    local left = limit - total
    if left < 0 then left = 0 end
    local outcome, value = 0, 0
    if at_least > limit then
      outcome, consume = 2, false
    elseif at_least > left then
      outcome, consume = 1, false
      local freed, pos, index, units = 0, from, nil, nil
      repeat
        index, units = unpack(ENTRY, raw, pos)
        freed, pos = freed + units, pos + 16
      until total - freed + at_least <= limit
      value = (index + parts + 1) * width - now
    elseif at_least > 0 then
      -- Half of what is left at most: near its limit a counter is shared unit by unit.
      value = floor(left / 2)
      if value > at_most then value = at_most end
      if value < at_least then value = at_least end
    end
    local returns = first and (first + parts + 1) * width - now or 0

    if consume and value > 0 then
      local index, units = floor((latest + hold) / width), value
      local last, pos, head, tail = index, size - 15, '', ''
      if first then
        local at, charged = unpack(ENTRY, raw, pos)
        if at < index then
          keeps_life = false
        else
          last = at
        end
        while at > index and pos > from do
          pos = pos - 16
          at, charged = unpack(ENTRY, raw, pos)
        end
        -- The entry at pos is the last one not after this, if there is one.
        if at == index then
          units, head, tail = units + charged, sub(raw, from, pos - 1), sub(raw, pos + 16)
        elseif at < index then
          head, tail = sub(raw, from, pos + 15), sub(raw, pos + 16)
        else
          tail = sub(raw, from)
        end
      else
        keeps_life = false
      end
      local state = pack(FOUR, width, latest, total + value, epoch) .. head .. pack(ENTRY, index, units) .. tail
      local life = not keeps_life and ceil(((last + parts + 1) * width - latest) / 1000) + SLACK_MS
      if writes then
        local n = #writes
        writes[n + 1], writes[n + 2], writes[n + 3] = key, state, life
      else
        writes = { key, state, life }
      end
      if states then states[key] = state end
      if hold > 0 and KEYS[lease] then
        local n = #writes
        writes[n + 1], writes[n + 2] = KEYS[lease], pack(THREE, value, latest + hold, epoch)
        writes[n + 3] = ceil(hold / 1000) + SLACK_MS
      end
      if not first or index < first then first = index end
      spent = spent .. pack(FOUR, outcome, value, left - value, (first + parts + 1) * width - now)
      -- A counter that is asked alone has granted for good.
      if states then unspent = unspent .. pack(FOUR, outcome, value, left, returns) end
    else
      local looked = pack(FOUR, outcome, value, left, returns)
      spent, unspent = spent .. looked, unspent .. looked
    end
  else
    local read = kind == BUCKET and bucket or kind == FIXED and fixed or slots
    local outcome, value, left, returns, returns_after, state, life, held, hold = read(raw, ask)
    if held then lease = lease + 1 end
    if outcome > 0 then consume = false end
    local looked = pack(FOUR, outcome, value, left, returns)
    unspent = unspent .. looked
    if consume and value > 0 then
      writes = writes or {}
      local n = #writes
      writes[n + 1], writes[n + 2], writes[n + 3] = key, state, ceil(life / 1000) + SLACK_MS
      if states then states[key] = state end
      if held and KEYS[lease] then
        writes[n + 4], writes[n + 5], writes[n + 6] = KEYS[lease], held, ceil(hold / 1000) + SLACK_MS
      end
      looked = pack(FOUR, outcome, value, left - value, returns_after)
    end
    spent = spent .. looked
  end
end

if not consume then return unspent end
for n = 1, writes and #writes or 0, 3 do
  if writes[n + 2] then
    call('SET', writes[n], writes[n + 1], 'PX', writes[n + 2])
  else
    call('SET', writes[n], writes[n + 1], 'KEEPTTL')
  end
end
return spent
