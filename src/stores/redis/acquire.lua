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
-- The answer has four integers a counter: 0, 1 or 2 for granted, short or never; units granted or the time to wait;
-- units left; the time until some return.
local pack, unpack, sub, floor = struct.pack, struct.unpack, string.sub, math.floor
local HEAD, ENTRY = '<I8I8I8I8', '<I8I8'
local SLACK_MS = 1000

-- The same charges under another width, none of them earlier than it was.
local function recut(raw, width)
  local old, latest, total, epoch = unpack(HEAD, raw)
  local body, last, sum = '', nil, 0
  for pos = 33, #raw, 16 do
    local index, units = unpack(ENTRY, raw, pos)
    index = floor(((index + 1) * old - 1) / width)
    if last and last ~= index then
      body = body .. pack(ENTRY, last, sum)
      sum = 0
    end
    last, sum = index, sum + units
  end
  if last then body = body .. pack(ENTRY, last, sum) end
  return pack(HEAD, width, latest, total, math.max(epoch + 1, latest)) .. body
end

local now
if ARGV[1] == '' then
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
else
  now = tonumber(ARGV[1])
end

local consume, leases = ARGV[2] == 'c', #ARGV - 2
local states, lives, records, holds = {}, {}, {}, {}
local before, after = {}, {}

for i = 1, #ARGV - 2 do
  local width, parts, limit, at_least, at_most, hold = unpack('<I8I8I8I8I8I8', ARGV[i + 2])
  local key = KEYS[i]
  local raw = states[key] or redis.call('GET', key)
  local latest, total, epoch, from, size = now, 0, now, 33, 0
  if raw then
    local cut
    cut, latest, total, epoch = unpack(HEAD, raw)
    if cut ~= width then
      raw = recut(raw, width)
      cut, latest, total, epoch = unpack(HEAD, raw)
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
    outcome = 2
  elseif at_least > left then
    outcome = 1
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

  local out = 4 * i
  before[out - 3], before[out - 2], before[out - 1] = outcome, value, left
  before[out] = first and (first + parts + 1) * width - now or 0
  after[out - 3], after[out - 2], after[out - 1], after[out] = outcome, value, left, before[out]
  if outcome ~= 0 then consume = false end

  if hold > 0 then leases = leases + 1 end
  if consume and value > 0 then
    local index = floor((latest + hold) / width)
    local last, pos, head, tail = index, size - 15, '', ''
    local units = value
    if first then
      while pos >= from do
        local at, charged = unpack(ENTRY, raw, pos)
        if at > last then last = at end
        if at == index then
          units, tail = units + charged, sub(raw, pos + 16)
          pos = pos - 16
          break
        elseif at < index then
          tail = sub(raw, pos + 16)
          break
        end
        pos = pos - 16
        if pos < from then tail = sub(raw, from) end
      end
      head = sub(raw, from, pos + 15)
    end
    states[key] = pack(HEAD, width, latest, total + value, epoch) .. head .. pack(ENTRY, index, units) .. tail
    lives[key] = math.ceil(((last + parts + 1) * width - latest) / 1000) + SLACK_MS
    if hold > 0 then
      local lease = KEYS[leases]
      records[lease] = pack('<I8I8I8I8', index, value, latest + hold, epoch)
      holds[lease] = math.ceil(hold / 1000) + SLACK_MS
    end
    if not first or index < first then first = index end
    after[out - 1], after[out] = left - value, (first + parts + 1) * width - now
  end
end

if not consume then return before end
for key, state in pairs(states) do
  redis.call('SET', key, state, 'PX', lives[key])
end
for key, record in pairs(records) do
  redis.call('SET', key, record, 'PX', holds[key])
end
return after
