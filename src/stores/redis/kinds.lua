-- Token bucket, fixed window and concurrency for acquire.lua, which is sent behind this where one of them is asked: without
-- it a sliding window is cheaper. See there for what is asked and for the states.
local call, pack, unpack, unpack_table = redis.call, struct.pack, struct.unpack, unpack
local sub, format, floor, ceil, max, min = string.sub, string.format, math.floor, math.ceil, math.max, math.min
local SIX, FOUR, THREE = '<I8I8I8I8I8I8', '<I8I8I8I8', '<I8I8I8'
local SLACK_MS = 1000
local BUCKET, FIXED = 98, 102 -- b, f

-- Answers with the outcome, units granted or the time to wait, units left, the time until some return; and, where units
-- are granted, that time after the charge, the state after it (of slots a function that writes it), how long it counts,
-- and the lease, if one is held, with its hold.
local function other(now, kind, key, raw, ask)
  if kind == BUCKET then
    local gain, unit, burst, units, hold = unpack('<I8I8I8I8I8', ask, 2)
    local latest, used, epoch = now, 0, now
    if raw then
      local old_gain, old, old_burst
      old_gain, old, old_burst, latest, used, epoch = unpack(SIX, raw)
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
    local left = free > 0 and floor(free / unit) or 0
    local next_back = latest + ceil(((left + 1) * unit - free) / gain) - now
    local returns = used > 0 and next_back or 0
    if units > burst then return 2, 0, left, returns end
    if units > left then return 1, latest + ceil((units * unit - free) / gain) - now, left, returns end
    if used == 0 and raw then epoch = max(epoch + 1, latest) end
    used = used + units * unit
    local state = pack(SIX, gain, unit, burst, latest, used, epoch)
    local lease = hold > 0 and pack(THREE, units, latest + hold, epoch)
    return 0, units, left, returns, next_back, state, ceil(used / gain), lease, hold
  end

  if kind == FIXED then
    local length, limit, units, hold = unpack(FOUR, ask, 2)
    local latest, used, epoch = now, 0, now
    if raw then
      local _
      _, latest, used, epoch = unpack(FOUR, raw)
      if latest < now then
        if floor(latest / length) < floor(now / length) then used, epoch = 0, max(epoch + 1, now) end
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

  -- Slots: one member for each unit, the name and a number, and its expiry for a score; the time is the score of the
  -- empty name.
  local limit, hold, units = unpack(THREE, ask, 2)
  local name = sub(ask, 26)
  local latest = tonumber(call('ZSCORE', key, '') or now)
  if latest < now then latest = now end
  local after = '(' .. format('%.0f', latest)
  local held = call('ZCOUNT', key, after, '+inf')
  local left = limit - held
  if left < 0 then left = 0 end
  -- When so many are back.
  local function back(count)
    return call('ZRANGEBYSCORE', key, after, '+inf', 'WITHSCORES', 'LIMIT', count - 1, 1)[2] - now
  end
  local returns = held > 0 and back(1) or 0
  if units > limit then return 2, 0, left, returns end
  if units > left then return 1, back(held + units - limit), left, returns end
  local expires = latest + hold
  local function write()
    call('ZREMRANGEBYSCORE', key, '-inf', latest)
    local members = { latest, '' }
    for unit = 1, units do
      local n = #members
      members[n + 1], members[n + 2] = expires, name .. pack('<I2', unit)
      if n >= 1000 or unit == units then
        call('ZADD', key, unpack_table(members))
        members = {}
      end
    end
    local life = ceil(hold / 1000) + SLACK_MS
    if call('PTTL', key) < life then call('PEXPIRE', key, life) end
  end
  local soonest = held > 0 and returns < expires - now and returns or expires - now
  return 0, units, left, returns, soonest, write, 0
end

