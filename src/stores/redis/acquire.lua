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
-- A state is a string of integers of 8 bytes, but for one:
--   sliding window  width, latest time, total and epoch, then index and units of each sub-window in use, oldest first;
--   token bucket    gain, unit, burst, latest time, parts used, epoch;
--   fixed window    length, latest time, units used, epoch;
--   concurrency     a sorted set, so that a change costs the same however much is held: see kinds.lua.
-- A lease of the first three is a key of its own: units, expiry and epoch. The epoch changes when leases taken so far
-- outlive their charges. Numbers are exact below 2^53. A refusal and a peek write nothing.
--
-- The answer is packed too, which is cheaper than an array, with four integers a counter: 0, 1 or 2 for granted, short
-- or never; units granted or the time to wait; units left; the time until some return.
local call, pack, unpack = redis.call, struct.pack, struct.unpack
local byte, sub, floor, ceil = string.byte, string.sub, math.floor, math.ceil
local FOUR, THREE, ENTRY = '<I8I8I8I8', '<I8I8I8', '<I8I8'
local SLACK_MS = 1000
local WINDOW, SLOTS = 119, 99 -- w, c

local now
if ARGV[1] == '' then
  local time = call('TIME')
  now = time[1] * 1000000 + time[2]
else
  now = tonumber(ARGV[1])
end

local asked, consume = #ARGV - 2, ARGV[2] == 'c'
-- What to answer if all grant, and if one refuses. What to write: key, value and life in turns.
local spent, unspent, writes, lease = '', '', nil, asked
-- The states that counters of this very call have by now.
local states = asked > 1 and {}

for i = 1, asked do
  local key, ask = KEYS[i], ARGV[i + 2]
  local kind = byte(ask)
  local raw = kind ~= SLOTS and (states and states[key] or call('GET', key))
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
    local outcome, value, left, returns, returns_after, state, life, held, hold = other(now, kind, key, raw, ask)
    if held then lease = lease + 1 end
    if outcome > 0 then consume = false end
    if consume and value > 0 then
      writes = writes or {}
      local n = #writes
      writes[n + 1], writes[n + 2], writes[n + 3] = key, state, ceil(life / 1000) + SLACK_MS
      if states then states[key] = state end
      if held and KEYS[lease] then
        writes[n + 4], writes[n + 5], writes[n + 6] = KEYS[lease], held, ceil(hold / 1000) + SLACK_MS
      end
      spent = spent .. pack(FOUR, outcome, value, left - value, returns_after)
      if states then unspent = unspent .. pack(FOUR, outcome, value, left, returns) end
    else
      local looked = pack(FOUR, outcome, value, left, returns)
      spent, unspent = spent .. looked, unspent .. looked
    end
  end
end

if not consume then return unspent end
for n = 1, writes and #writes or 0, 3 do
  if type(writes[n + 1]) == 'function' then
    writes[n + 1]()
  elseif writes[n + 2] then
    call('SET', writes[n], writes[n + 1], 'PX', writes[n + 2])
  else
    call('SET', writes[n], writes[n + 1], 'KEEPTTL')
  end
end
return spent
