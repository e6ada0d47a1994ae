-- Asks counters for units, all or none: the algorithms of domain/window.rs, bucket.rs, fixed.rs and slots.rs, word for word.
--
-- KEYS[1..n]   the counters' states; after them one key for each reservation: for each counter that is asked for exactly so
--              much with a hold. Without those keys it is charged for as long, and cannot be settled.
-- ARGV[1]      the time in microseconds, or empty: the server's own.
-- ARGV[2]      c to consume, p to peek.
-- ARGV[2 + i]  what is asked of counter i, packed: a letter for its algorithm, then integers of 8 bytes:
--              w  sliding window: width, parts, limit, at_least, at_most, hold; then, as text, for how many
--                 milliseconds such a charge counts at most, with some slack;
--              b  token bucket: gain, unit, burst, at_least, hold;
--              f  fixed window: length, limit, at_least, hold;
--              c  concurrency: limit, hold, at_least, then the lease's name (16 bytes).
--
-- A state is a string of integers of 8 bytes, or for concurrency of doubles, which are quicker:
--   sliding window  width, latest time, total, epoch, and the index of the oldest sub-window in use, if any; then index
--                   and units of each sub-window in use, newest first;
--   token bucket    gain, unit, burst, latest time, parts used, epoch, and, where it is known, a moment until which Redis
--                   keeps the key at least: beyond what is needed, so that few charges have to set it;
--   fixed window    length, latest time, units used, epoch;
--   concurrency     80 bytes for each lease, in the order of expiries: its name (16 bytes), expiry, units, or 0 when it was
--                   released, and what was so when it was written, of which the last is so now, hence one may just be
--                   appended: latest time, units held, where the first that holds some begins, the length of all, the
--                   expiry of that first one, and the moment until which Redis keeps the key at least. Whatever lies
--                   before the first counts no more.
-- A reservation of the first three is a key of its own: units, expiry and epoch. A lease, which is asked for up to more than
-- is needed, is written nowhere: its holder is told as much, and tells it when it settles. The epoch changes when what was
-- taken so far outlives its charge. Numbers are exact below 2^53. A refusal and a peek write nothing.
--
-- The answer is packed too, with seven integers a counter: 0, 1 or 2 for granted, short or never; units granted or the
-- time to wait; units left, and the time until some return, before the charge; that time after it; and of a lease its
-- expiry and epoch.
--
-- What costs is commands, strings that are made (long ones above all), and numbers that Redis has to write out. So
-- commands get numbers as text where they are known, a string is packed in one go, and functions are not made here.
local call, pack, unpack = redis.call, struct.pack, struct.unpack
local byte, sub, floor, ceil, max, min = string.byte, string.sub, math.floor, math.ceil, math.max, math.min
local ENTRY, THREE, FOUR = '<I8I8', '<I8I8I8', '<I8I8I8I8'
local FIVE, SIX, SEVEN = '<I8I8I8I8I8', '<I8I8I8I8I8I8', '<I8I8I8I8I8I8I8'
local HELD, HELD_ENTRY = '<dddddddd', '<dd'
local SLACK_MS = 1000
local WINDOW, BUCKET, FIXED = 119, 98, 102 -- w, b, f; else c

local asked, consume, answer = #ARGV - 2, ARGV[2] == 'c', ''
-- What to write if all grant: key, text, life and place in turns. Without a life the text goes over what is there at its
-- place, or behind all where there is no place, and whatever else is there stays, its life too. A life goes by the clock,
-- which may have stepped back behind the counter's time. Room for four is made at once: a table that grows is copied
-- each time.
local writes = {
  false, false, false, false, false, false, false, false, false, false, false, false, false, false, false, false,
}
local written, record = 0, asked

for i = 1, asked do
  local key, ask = KEYS[i], ARGV[i + 2]
  local kind, raw = byte(ask), nil
  -- This very call may have asked it already.
  for n = 1, written, 4 do
    if writes[n] == key then
      raw = writes[n + 1]
      if not writes[n + 2] then raw = raw .. sub(call('GET', key), #raw + 1) end
    end
  end
  local latest, epoch = now, now
  local outcome, value, left, returns, after = 0, 0, 0, 0, 0
  local hold, recorded, text, life, place = 0, true, nil, nil, '0'

  if kind == WINDOW then
    local width, parts, limit, at_least, at_most
    width, parts, limit, at_least, at_most, hold = unpack(SIX, ask, 2)
    recorded = at_most <= at_least
    local cut, total, first, newest, charged = width, 0, 0, nil, nil
    -- The newest sub-window is often all that one needs to know, and two of them often all that there are.
    local whole, stop = raw, 0
    raw = raw or call('GETRANGE', key, '0', '87')
    if raw ~= '' then
      cut, latest, total, epoch, first = unpack(FIVE, raw)
      if latest < now then latest = now end
      if #raw > 40 then newest, charged = unpack(ENTRY, raw, 41) end
    end
    local oldest, index = floor(latest / width) - parts, floor((latest + hold) / width)
    local joins = newest == index and first >= oldest and cut == width and not whole
    if raw ~= '' and not (joins and total + at_least <= limit) then
      joins = false
      if not whole and #raw >= 88 then raw = call('GET', key) end
      if cut ~= width then
        -- The same charges under another width, none of them earlier than it was.
        local body, last, sum = '', nil, 0
        for pos = 41, #raw, 16 do
          local at, units = unpack(ENTRY, raw, pos)
          at = floor(((at + 1) * cut - 1) / width)
          if last and last ~= at then body, sum = body .. pack(ENTRY, last, sum), 0 end
          last, sum = at, sum + units
        end
        if last then body = body .. pack(ENTRY, last, sum) end
        epoch, raw = max(epoch + 1, latest), sub(raw, 1, 40) .. body
      end
      -- Whatever lies before the oldest sub-window that counts is passed over.
      stop, first = #raw, 0
      while stop > 40 do
        local at, units = unpack(ENTRY, raw, stop - 15)
        if at >= oldest then
          first = at
          break
        end
        total, stop = total - units, stop - 16
      end
    end

    left = limit - total
    if left < 0 then left = 0 end
    if total > 0 then returns = (first + parts + 1) * width - now end
    if at_least > limit then
      outcome = 2
    elseif at_least > left then
      local freed, pos, at, units = 0, stop, nil, nil
      repeat
        at, units = unpack(ENTRY, raw, pos - 15)
        freed, pos = freed + units, pos - 16
      until total - freed + at_least <= limit
      outcome, value = 1, (at + parts + 1) * width - now
    elseif at_least > 0 then
      -- Half of what is left at most: near its limit a counter is shared unit by unit.
      value = floor(left / 2)
      if value > at_most then value = at_most end
      if value < at_least then value = at_least end
    end

    if consume and outcome == 0 and value > 0 then
      if total == 0 or index < first then first = index end
      after = (first + parts + 1) * width - now
      total = total + value
      if joins then
        text = pack(SEVEN, width, latest, total, epoch, first, index, charged + value)
      else
        -- It goes before earlier sub-windows and after later ones, which only leases reach.
        local pos, units, at, charged = 41, value, nil, nil
        while pos < stop do
          at, charged = unpack(ENTRY, raw, pos)
          if at <= index then break end
          pos = pos + 16
        end
        local rest, last = pos, index
        if pos > 41 then last = unpack(ENTRY, raw, 41) end
        if pos < stop and at == index then units, rest = units + charged, pos + 16 end
        text = pack('<I8I8I8I8I8c0I8I8c0', width, latest, total, epoch, first,
          sub(raw, 41, pos - 1), index, units, sub(raw, rest, stop))
        -- Told as text: for Redis to write out a number is dear.
        life = sub(ask, 50)
        if last > index or latest > now then life = ceil(((last + parts + 1) * width - now) / 1000) + SLACK_MS end
      end
    end

  elseif kind == BUCKET then
    local gain, unit, burst, units
    gain, unit, burst, units, hold = unpack(FIVE, ask, 2)
    local used, kept = 0, 0
    raw = raw or call('GET', key)
    if raw then
      local old_gain, old, old_burst
      old_gain, old, old_burst, latest, used, epoch = unpack(SIX, raw)
      if #raw > 48 then kept = unpack('<I8', raw, 49) end
      if old ~= unit then
        used = min(ceil(used / old), burst) * unit
      elseif used > burst * unit and (old_gain ~= gain or old_burst ~= burst) then
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
    if free > 0 then left = floor(free / unit) end
    after = latest + ceil(((left + 1) * unit - free) / gain) - now
    if used > 0 then returns = after end
    if units > burst then
      outcome = 2
    elseif units > left then
      outcome, value = 1, latest + ceil((units * unit - free) / gain) - now
    elseif units > 0 then
      value = units
      if used == 0 and raw then epoch = max(epoch + 1, latest) end
      used = used + units * unit
      local full = latest + ceil(used / gain)
      if full > kept then
        kept = full + ceil(burst * unit / gain)
        life = ceil((kept - now) / 1000) + SLACK_MS
      end
      text = pack(SEVEN, gain, unit, burst, latest, used, epoch, kept)
    end

  elseif kind == FIXED then
    local length, limit, units
    length, limit, units, hold = unpack(FOUR, ask, 2)
    local used, cut = 0, nil
    raw = raw or call('GET', key)
    if raw then
      cut, latest, used, epoch = unpack(FOUR, raw)
      if latest < now then
        if floor(latest / length) < floor(now / length) then used, epoch = 0, max(epoch + 1, now) end
        latest = now
      end
    end
    local ends = (floor(latest / length) + 1) * length
    left = limit - used
    if left < 0 then left = 0 end
    after = ends - now
    if used > 0 then returns = after end
    if units > limit then
      outcome = 2
    elseif units > left then
      outcome, value = 1, after
    elseif units > 0 then
      value = units
      text = pack(FOUR, length, latest, used + units, epoch)
      -- Whoever charged to this window has set it.
      if used == 0 or cut ~= length then life = ceil((ends - now) / 1000) + SLACK_MS end
    end

  else
    local limit, slots_hold, units = unpack(THREE, ask, 2)
    local last, held, front, size, first, kept, entry = 0, 0, 0, 0, 0, 0, nil
    raw = call('GETRANGE', key, '-80', '-1')
    if raw ~= '' then
      local _
      last, _, latest, held, front, size, first, kept = unpack(HELD, raw, 17)
      if latest < now then latest = now end
    end
    if last <= latest then held = 0 end
    if held > 0 and (first <= latest or held + units > limit + 1) then
      -- Expiry and units of the entry there; they are read some at a time.
      local chunk, from = '', 0
      function entry(pos)
        if pos >= from + #chunk then chunk, from = call('GETRANGE', key, pos, pos + 1279), pos end
        return unpack(HELD_ENTRY, chunk, pos - from + 17)
      end
    end
    -- What has expired is passed over, and what was released.
    while held > 0 and first <= latest do
      local expires, there = entry(front)
      if there > 0 and expires > latest then
        first = expires
      else
        held, front = held - there, front + 80
      end
    end

    left = limit - held
    if left < 0 then left = 0 end
    if held > 0 then returns = first - now end
    if units > limit then
      outcome = 2
    elseif units > left then
      local excess, pos, back = held + units - limit, front, first
      -- The first holds one at least.
      if excess == 1 then excess = 0 end
      while excess > 0 do
        local expires, there = entry(pos)
        if there > 0 then back = expires end
        excess, pos = excess - there, pos + 80
      end
      outcome, value = 1, back - now
    elseif units > 0 then
      local expires = latest + slots_hold
      value = units
      if held == 0 or expires < first then after = expires - now else after = returns end
      if consume then
        -- Before what counts no more is most of it.
        local anew = expires > kept or size >= 160 * held + 5120
        local live, head, rest = '', '', ''
        if held == 0 then
          front, first, last = size, expires, expires
        elseif anew or expires < last then
          live = call('GETRANGE', key, front, '-1')
        end
        if anew then
          -- In runs of entries that hold some.
          local runs, run = {}, 1
          for pos = 1, #live, 80 do
            local _, there = unpack(HELD_ENTRY, live, pos + 16)
            if there == 0 then
              runs[#runs + 1] = sub(live, run, pos - 1)
              run = pos + 80
            end
          end
          if run > 1 then live = table.concat(runs) .. sub(live, run) end
          front, size, head, kept = 0, #live, live, max(expires, last) + slots_hold
          life = ceil((kept - now) / 1000) + SLACK_MS
        end
        place = nil
        if expires < last then
          -- It goes before what was taken earlier, when holds were longer.
          local low, put = 0, #live
          while low < put do
            local middle = floor((low + put) / 160) * 80
            if unpack(HELD_ENTRY, live, middle + 17) > expires then put = middle else low = middle + 80 end
          end
          if put == 0 then first = expires end
          head, rest, place = anew and sub(live, 1, put) or '', sub(live, put + 1), front + put
        end
        text = pack('<c0dddddddd', sub(ask, 26), expires, units, latest, held + units, front, size + 80, first, kept)
        if rest ~= '' then text = text .. sub(rest, 1, -49) .. sub(text, -48) end
        if head ~= '' then text = head .. text end
      end
    end
  end

  recorded = recorded and hold > 0
  if recorded then record = record + 1 end
  if outcome > 0 then consume = false end
  answer = pack('<c0I8I8I8I8I8I8I8', answer, outcome, value, left, returns, after, latest + hold, epoch)
  if consume and text then
    writes[written + 1], writes[written + 2], writes[written + 3], writes[written + 4] = key, text, life, place
    written = written + 4
    if recorded and KEYS[record] then
      writes[written + 1], writes[written + 2] = KEYS[record], pack(THREE, value, latest + hold, epoch)
      writes[written + 3] = ceil(hold / 1000) + SLACK_MS
      written = written + 4
    end
  end
end

if consume then
  for n = 1, written, 4 do
    local key, text, life, place = writes[n], writes[n + 1], writes[n + 2], writes[n + 3]
    if life then
      call('SET', key, text, 'PX', life)
    elseif place then
      call('SETRANGE', key, place, text)
    else
      call('APPEND', key, text)
    end
  end
end
return answer
