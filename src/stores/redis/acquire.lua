-- Asks counters for units, all or none: the algorithms of domain/window.rs, bucket.rs, fixed.rs and slots.rs, word for word.
-- Several questions may be asked together; see together.lua, which is sent behind this.
--
-- KEYS         question by question, the counters' states; after them, where some is reserved, the key of the question's
--              reservations. Without that key it is charged for as long, and cannot be settled.
-- ARGV[1]      the time in microseconds, or empty: the server's own.
-- ARGV[2..n]   the questions: a byte, how many keys are its own; c to consume, t where a counter is named twice, p to peek; then,
--              without anything in between, what is asked of each counter: a letter for its algorithm, then doubles:
--              w  sliding window: width, parts, limit, at_least, hold, at_most;
--              r  the same, reserved: width, parts, limit, at_least, hold, the reservation's mark;
--              b  token bucket: gain, unit, burst, at_least, hold, and with a hold the reservation's mark;
--              f  fixed window: length, limit, at_least, hold, and with a hold the reservation's mark;
--              c  concurrency: limit, longest time until what is taken comes back, the time between two moments at which
--                 some does, at_least, then the lease's name (16 bytes).
--
-- A state is a string of doubles. What changes with each charge comes first, so that it can be written in place:
--   sliding window  latest time, total, units of the newest sub-window in use; its index, that of the oldest one in use,
--                   epoch, width, where the oldest stands, and the moment until which Redis keeps the key at least; then
--                   index and units of the sub-windows before the newest, oldest first. What stands before the oldest in
--                   use counts no more;
--   token bucket    latest time, parts used, epoch; gain, unit, burst, and, where it is known, until when it is kept;
--   fixed window    latest time, units used, epoch; length;
--   concurrency     80 bytes for each lease, in the order of expiries: its name (16 bytes), expiry, units, or 0 when it was
--                   released, and what was so when it was written, of which the last is so now, hence one may just be
--                   appended: latest time, units held, where the first that holds some begins, the length of all, the
--                   expiry of that first one, and until when it is kept. Whatever lies before the first counts no more.
-- A key is kept beyond what is needed, so that few charges have to set its life. A reservation of the first three is
-- written down with others that are taken at about the same time for as long, 32 bytes for each counter: mark, units,
-- expiry and epoch. A lease, which is asked for up to more than is needed, is written nowhere: its holder is told as much,
-- and tells it when it settles. The epoch changes when what was taken so far outlives its charge. Numbers are exact below
-- 2^53. A refusal and a peek write nothing.
--
-- The answer is packed too. For each counter one byte: 0, 1, 2 or 3 for granted, short, never or granted as a lease; then
-- doubles: units granted or the time to wait; units left, and the time until some return, before the charge; that time
-- after it; and of a lease its expiry and epoch.
--
-- What costs is commands, each byte of each string that is made (Lua hashes them all), numbers that Redis has to write out,
-- functions to be called, numbers to be packed and unpacked, and each step of Lua. Formats are written where they are used,
-- because to name them is a step, and variables are assigned to one by one, because several at once are copied first. So
-- little is read and written, and in one go.

-- One question, and how many keys are those of earlier ones.
local function ask(asks, before)
  local keys, call, pack, unpack, all_of = KEYS, redis.call, struct.pack, struct.unpack, unpack
  local byte, sub = string.byte, string.sub
  local mode, pos, asked, answer = byte(asks, 2), 3, 0, ''
  local consume = mode ~= 112 -- p
  -- What to write if all grant. Without a life the text goes over what is there at its place, or nowhere without one; more
  -- is appended. Whatever else is there stays, its life too. A life goes by the clock, which may have stepped back behind
  -- the counter's time. Of several counters it is kept until the end, four for each; room is made at once: a table that
  -- grows is copied each time.
  local text, life, place, more, writes
  -- Numbers of reservations, packed at once in the end, and how many; of one counter alone they are packed already.
  local records, recorded, recorded_for = nil, 0, 0

  repeat
    asked = asked + 1
    local key, kind, raw = keys[before + asked], byte(asks, pos), nil
    if mode == 116 then -- t
      -- This very question may have asked it already.
      for other = 1, asked - 1 do
        local n = 4 * other
        local written = writes[n - 3]
        if keys[before + other] == key and written then
          if not writes[n - 2] then written = written .. sub(raw or call('GET', key), #written + 1) end
          raw = written .. (writes[n] or '')
        end
      end
    end
    local latest, epoch, hold, mark = now, now, 0, nil
    local outcome, value, left, returns, after = 0, 0, 0, 0, 0
    text = nil
    life = nil
    place = '0'
    more = nil

    if kind > 113 then -- w, r
      local width, parts, limit, at_least, holds, at_most = unpack('<dddddd', asks, pos + 1)
      pos = pos + 49
      hold = holds
      if kind == 114 then mark, at_most = at_most, at_least end
      local total, charged, newest, first, cut, front, kept = 0, 0, 0, 0, width, 72, 0
      -- The sub-windows before the newest, as far as they were read; from where on they are in use; whether there are more.
      local log, here, unread, anew = '', 1, true, raw
      raw = raw or call('GETRANGE', key, '0', '71')
      if raw ~= '' then
        latest, total, charged, newest, first, epoch, cut, front, kept = unpack('<ddddddddd', raw)
        if latest < now then latest = now end
        if anew or cut ~= width then
          log, unread, anew = sub(anew or call('GET', key), front + 1), false, true
          if cut ~= width then
            -- The same charges under another width, none of them earlier than it was.
            local body, last, sum = '', nil, 0
            log = log .. pack('<dd', newest, charged)
            for from = 1, #log, 16 do
              local at, units = unpack('<dd', log, from)
              at = ((at + 1) * cut - 1) / width
              at = at - at % 1
              if not last then first = at end
              if last and last ~= at then body, sum = body .. pack('<dd', last, sum), 0 end
              last, sum = at, sum + units
            end
            log, newest, charged, epoch = body, last, sum, math.max(epoch + 1, latest)
          end
        end
      end
      local oldest, index = (latest - latest % width) / width - parts, latest + hold
      index = (index - index % width) / width
      local counts, passed = total > 0 and newest >= oldest, false
      left = limit
      if counts then
        -- Whatever lies before the oldest sub-window that counts is passed over; often that is one, or two.
        while first < oldest do
          passed = true
          if here > #log and unread then
            unread = log == ''
            log, here = call('GETRANGE', key, front, unread and front + 47 or '-1'), 1
            unread = unread and #log == 48
          end
          if here > #log then
            first = newest
          else
            local at, units = unpack('<dd', log, here)
            if at < oldest then total, front, here = total - units, front + 16, here + 16 else first = at end
          end
        end
        left = limit - total
        if left < 0 then left = 0 end
        returns = (first + parts + 1) * width - now
      end

      if at_least > left then
        if at_least > limit then
          outcome = 2
        else
          if unread and first ~= newest then log, here = call('GETRANGE', key, front, '-1'), 1 end
          local freed, at, units = 0, nil, nil
          repeat
            if here > #log then at, units = newest, charged else at, units = unpack('<dd', log, here) end
            freed, here = freed + units, here + 16
          until total - freed + at_least <= limit or at == newest
          outcome, value = 1, (at + parts + 1) * width - now
        end
      elseif at_least > 0 then
        value = at_least
        if at_most > value then
          -- Half of what is left at most: near its limit a counter is shared unit by unit.
          local half = (left - left % 2) / 2
          if half > at_most then half = at_most end
          if half > value then value = half end
        end
        if consume then
          local ends = (index + parts + 1) * width
          if not counts then
            text, life = pack('<ddddddddd', latest, value, value, index, index, epoch, width, 72, ends), ends - now
            after = life
          else
            after = returns
            if index < first then first, after = index, ends - now end
            total = total + value
            if index == newest and not anew then
              charged = charged + value
              if passed then
                text = pack('<ddddddddd', latest, total, charged, newest, first, epoch, width, front, kept)
              else
                text = pack('<ddd', latest, total, charged)
              end
            elseif index > newest and ends <= kept and not anew then
              text = pack('<ddddddddd', latest, total, value, index, first, epoch, width, front, kept)
              more = pack('<dd', newest, charged)
            else
              if unread then log, here = first ~= newest and call('GETRANGE', key, front, '-1') or '', 1 end
              log = sub(log, here)
              if index == newest then
                charged = charged + value
              elseif index > newest then
                log, newest, charged = log .. pack('<dd', newest, charged), index, value
              else
                -- It goes behind earlier sub-windows and before later ones, which only leases reach.
                local from, at, units = #log - 15, nil, nil
                while from > 0 do
                  at, units = unpack('<dd', log, from)
                  if at <= index then break end
                  from = from - 16
                end
                local joins = from > 0 and at == index
                log = sub(log, 1, joins and from - 1 or from + 15) .. pack('<dd', index, joins and units + value or value)
                  .. sub(log, from + 16)
              end
              -- As long again, for those that come later; not for one that is alone, which may stay so.
              kept = (newest + 2 * parts + 1) * width
              life = kept - now
              text = pack('<dddddddddc0', latest, total, charged, newest, first, epoch, width, 72, kept, log)
            end
          end
        end
      end

    elseif kind == 99 then -- c
      local limit, reach, apart, units, name = unpack('<ddddc16', asks, pos + 1)
      pos = pos + 49
      local last, held, front, size, first, kept, _ = 0, 0, 0, 0, 0, 0
      raw = call('GETRANGE', key, '-64', '-1')
      if raw ~= '' then
        last, _, latest, held, front, size, first, kept = unpack('<dddddddd', raw)
        if latest < now then latest = now end
        if last <= latest then held = 0 end
      end
      -- Expiry and units of entries from `from` on.
      local chunk, from = '', front
      if held > 0 and first <= latest then
        -- What has expired is passed over, and what was released. Five entries mostly suffice, then more are read at a time.
        local length, format = 336, string.format -- quicker than to have Redis write them out
        repeat
          if front - from >= #chunk then
            chunk, from, length = call('GETRANGE', key, format('%d', front + 16), format('%d', front + 15 + length)), front, 1280
          end
          local expires, there = unpack('<dd', chunk, front - from + 1)
          if there > 0 and expires > latest then
            first = expires
          else
            held, front = held - there, front + 80
          end
        until held <= 0 or first > latest
      end

      left = limit - held
      if left < 0 then left = 0 end
      if held > 0 then returns = first - now end
      if units > limit then
        outcome = 2
      elseif units > left then
        local excess, at, back = held + units - limit, front, first
        -- The first holds one at least.
        if excess == 1 then excess = 0 end
        while excess > 0 do
          if at - from >= #chunk then
            chunk, from = call('GETRANGE', key, at + 16, at + 1295), at
          end
          local expires, there = unpack('<dd', chunk, at - from + 1)
          if there > 0 then back = expires end
          excess, at = excess - there, at + 80
        end
        outcome, value = 1, back - now
      elseif units > 0 then
        local expires = latest + reach
        expires = expires - expires % apart
        value = units
        after = returns
        if held == 0 then front, first, last, after = size, expires, expires, expires - now end
        if consume and expires >= last and expires <= kept and size < 160 * held + 5120 then
          more = pack('<c16dddddddd', name, expires, units, latest, held + units, front, size + 80,
            first, kept)
        elseif consume then
          -- Before what counts no more is most of it.
          local anew = expires > kept or size >= 160 * held + 5120
          local live, head, rest = held > 0 and call('GETRANGE', key, front, '-1') or '', '', ''
          place = nil
          if anew then
            if #live > 80 * held then
              -- Some were released: in runs of entries that hold some.
              local runs, run = {}, 1
              for at = 1, #live, 80 do
                local _, there = unpack('<dd', live, at + 16)
                if there == 0 then
                  runs[#runs + 1] = sub(live, run, at - 1)
                  run = at + 80
                end
              end
              if run > 1 then live = table.concat(runs) .. sub(live, run) end
            end
            front, size, head, kept = 0, #live, live, math.max(expires, last) + reach - apart
            life = kept - now
          end
          if expires < last then
            -- It goes before what was taken earlier, when holds were longer.
            local low, put = 0, #live
            while low < put do
              local middle = (low + put) / 160
              middle = (middle - middle % 1) * 80
              if unpack('<d', live, middle + 17) > expires then put = middle else low = middle + 80 end
            end
            if put == 0 then first, after = expires, expires - now end
            head, rest, place = anew and sub(live, 1, put) or '', sub(live, put + 1), front + put
          end
          text = pack('<c16dddddddd', name, expires, units, latest, held + units, front, size + 80,
            first, kept)
          if rest ~= '' then text = text .. sub(rest, 1, -49) .. sub(text, -48) end
          if head ~= '' then text, more = head, text end
        end
      end

    elseif kind == 98 then -- b
      local ceil = math.ceil
      local gain, unit, burst, units
      gain, unit, burst, units, hold = unpack('<ddddd', asks, pos + 1)
      pos = pos + 41
      if hold > 0 then mark, pos = unpack('<d', asks, pos) end
      local used, kept, same = 0, 0, false
      raw = raw or call('GET', key)
      if raw then
        local old_gain, old, old_burst
        latest, used, epoch, old_gain, old, old_burst = unpack('<dddddd', raw)
        if #raw > 48 then kept = unpack('<d', raw, 49) end
        same = old == unit and old_gain == gain and old_burst == burst
        if old ~= unit then
          used = ceil(used / old)
          if used > burst then used = burst end
          used = used * unit
        elseif used > burst * unit and not same then
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
      if free > 0 then left = (free - free % unit) / unit end
      after = latest + ceil(((left + 1) * unit - free) / gain) - now
      if used > 0 then returns = after end
      if units > burst then
        outcome = 2
      elseif units > left then
        outcome, value = 1, latest + ceil((units * unit - free) / gain) - now
      elseif units > 0 then
        value = units
        if used == 0 and raw then epoch = math.max(epoch + 1, latest) end
        used = used + units * unit
        local full = latest + ceil(used / gain)
        if full > kept then
          kept = full + ceil(burst * unit / gain)
          life = kept - now
        end
        if same and not life then
          text = pack('<ddd', latest, used, epoch)
        else
          text = pack('<ddddddd', latest, used, epoch, gain, unit, burst, kept)
        end
      end

    else -- f
      local length, limit, units
      length, limit, units, hold = unpack('<dddd', asks, pos + 1)
      pos = pos + 33
      if hold > 0 then mark, pos = unpack('<d', asks, pos) end
      local used, cut = 0, nil
      raw = raw or call('GET', key)
      if raw then
        latest, used, epoch, cut = unpack('<dddd', raw)
        if latest < now then
          if latest - latest % length < now - now % length then used, epoch = 0, math.max(epoch + 1, now) end
          latest = now
        end
      end
      local ends = latest - latest % length + length
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
        if used == 0 or cut ~= length then
          text = pack('<dddd', latest, used + units, epoch, length)
          life = ends - now
        else
          -- Whoever charged to this window has set its life.
          text = pack('<ddd', latest, used + units, epoch)
        end
      end
    end

    if outcome > 0 then consume = false end
    if hold > 0 and not mark and outcome == 0 then
      answer = pack('<c0Bdddddd', answer, 3, value, left, returns, after, latest + hold, epoch)
    else
      answer = pack('<c0Bdddd', answer, outcome, value, left, returns, after)
    end
    local done = pos > #asks
    if asked > 1 or not done then
      local n = 4 * asked
      writes = writes
        or { nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil }
      writes[n - 3] = consume and text or nil
      writes[n - 2] = life
      writes[n - 1] = place
      writes[n] = more
    end
    if mark and text then
      local expires = latest + hold
      if writes then
        -- As with writes.
        records = records or { nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil }
        local n = recorded
        records[n + 1] = mark
        records[n + 2] = value
        records[n + 3] = expires
        records[n + 4] = epoch
        recorded = n + 4
      else
        records = pack('<dddd', mark, value, expires, epoch)
      end
      if hold > recorded_for then recorded_for = hold end
    end
  until done

  if consume then
    for i = 1, asked do
      local key = keys[before + i]
      if writes then
        local n = 4 * i
        text = writes[n - 3]
        life = writes[n - 2]
        place = writes[n - 1]
        more = writes[n]
      end
      if life then
        call('SET', key, text, 'PX', (life - life % 1000) / 1000 + 1000)
      elseif text and place then
        call('SETRANGE', key, place, text)
      end
      if more then call('APPEND', key, more) end
    end
    local key = keys[before + asked + 1]
    if key and records then
      if recorded > 0 then
        local doubles = recorded == 16 and '<dddddddddddddddd' or '<' .. string.rep('d', recorded)
        records = pack(doubles, all_of(records, 1, recorded))
      end
      if call('APPEND', key, records) == #records then
        call('SET', key, records, 'PX', (recorded_for - recorded_for % 1000) / 1000 + 2000)
      end
    end
  end
  return answer
end
