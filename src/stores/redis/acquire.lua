-- Asks counters for units, all or none: the sliding window of domain/window.rs, word for word.
--
-- KEYS[1..n]   the counters' states; after them one key for the lease of each counter that is asked with a hold.
-- ARGV[1]      the time in microseconds, or empty: the server's own.
-- ARGV[2]      c to consume, p to peek.
-- ARGV[2 + i]  what is asked of counter i, packed: width, parts, limit, at_least, at_most, hold.
--
-- A state is a string: width, latest time, total and epoch, then index and units of each sub-window in use, oldest
-- first; integers of 8 bytes. The epoch changes when leases taken so far lose their hold on the charges. Numbers are
-- exact below 2^53. A refusal and a peek write nothing.
--
-- The answer is packed too, which is cheaper than an array, with four integers a counter: 0, 1 or 2 for granted, short
-- or never; units granted or the time to wait; units left; the time until some return.
local call, pack, unpack, sub, floor = redis.call, struct.pack, struct.unpack, string.sub, math.floor
local FOUR, ENTRY = '<I8I8I8I8', '<I8I8'
local SLACK_MS = 1000

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
  local width, parts, limit, at_least, at_most, hold = unpack('<I8I8I8I8I8I8', ARGV[i + 2])
  local key = KEYS[i]
  local raw = states and states[key] or call('GET', key)
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

  if hold > 0 then lease = lease + 1 end
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
    local life = not keeps_life and math.ceil(((last + parts + 1) * width - latest) / 1000) + SLACK_MS
    if writes then
      local n = #writes
      writes[n + 1], writes[n + 2], writes[n + 3] = key, state, life
    else
      writes = { key, state, life }
    end
    if states then states[key] = state end
    if hold > 0 then
      local n = #writes
      writes[n + 1], writes[n + 2] = KEYS[lease], pack(FOUR, index, value, latest + hold, epoch)
      writes[n + 3] = math.ceil(hold / 1000) + SLACK_MS
    end
    if not first or index < first then first = index end
    spent = spent .. pack(FOUR, outcome, value, left - value, (first + parts + 1) * width - now)
    -- A counter that is asked alone has granted for good.
    if states then unspent = unspent .. pack(FOUR, outcome, value, left, returns) end
  else
    local looked = pack(FOUR, outcome, value, left, returns)
    spent, unspent = spent .. looked, unspent .. looked
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
