-- The log of what was taken back.
--
-- KEYS[1]  the entries, a sorted set: all have the score 0, so they stand in the order of their ids, which is the same on
--          every server that they come to.
-- KEYS[2]  the same entries by the moment at which they end.
-- KEYS[3]  a hash: by its id each entry, and behind it in JSON who asked for it and why; and the log's name.
-- KEYS[4]  the changes, a stream.
-- ARGV[1]  the time in microseconds, or empty: the server's own.
-- ARGV[2]  a name for the log where it has to be begun.
-- ARGV[3]  a random number below 2^20, which tells the changes of this call from others of the same number that were lost.
-- ARGV[4]  how many changes are kept, about.
-- ARGV[5]  how many entries there may be.
-- ARGV[6]  what is to be done:
--   add       writes entries, all or none. ARGV[7], [9], … are wishes: id, kind, tag; `b` and the moment up to which was
--             issued what is hit, or now if that is ahead, or `x` and exactly the moment; `u` and the end of the entry,
--             or `f` and for how long it is kept; and what is added to a moment that is not exact. ARGV[8], [10], … are
--             what is to be known of it in JSON, without its moment; `-`: nothing; empty: what is known already. Answers
--             each entry as it is now, or nothing where it would be over. The status is `full` where there is no room, and
--             nothing was written.
--   undo      removes the entry of the id ARGV[7], and answers it and what was known of it.
--   find      answers the entry of each id from ARGV[7] on.
--   snapshot  answers at most ARGV[8] entries from ARGV[7] on; `list` with what is known of each behind all of them.
--   news      answers the changes after the one with the id ARGV[8] of the log ARGV[7]: of each its id, `+` or `-`, and some
--             entries. The status is `gone` where what came after it is not there.
--
-- An entry: id (16 bytes), version (1), kind (1), tag (8), and as doubles the moment up to which was issued what is hit, and
-- the end; infinite where there is none.
--
-- The answer is a list of texts, each behind its length: status, log, id of the last change, time; then what was asked for.
local call, pack, sub, max, min, huge = redis.call, struct.pack, string.sub, math.max, math.min, math.huge
local entries, ends, details, changes = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local random, task = ARGV[3], ARGV[6]
local VERSION, SIZE, CUTOFF = '\1', 42, 27
-- A field that is longer than ids are.
local NAME = 'the name of the log'
local LAST_MOMENT, NUMBER_END, RANDOM_END = 9007199254740991, 8796093022208, 1048576
local CHANGES_PER_ENTRY, READ_MAX, PRUNED = 10, 100, 16

local function whole(number) return string.format('%.0f', number) end

local function parts(change)
  local number, rest = string.match(change, '^(%d+)-(%d+)$')
  return tonumber(number), tonumber(rest)
end

local log = call('HGET', details, NAME)
local last = call('XREVRANGE', changes, '+', '-', 'COUNT', 1)[1]
last = last and last[1]

-- Another log, with the entries that are there. None of the keys is ever missing from then on: a slot of a cluster that is
-- on its way is served as long as all are at one place, and one that is lost is noticed.
local function begin()
  log = ARGV[2]
  call('DEL', changes)
  call('HSET', details, NAME, log)
  call('ZADD', entries, 0, '')
  call('ZADD', ends, '+inf', '')
  last = call('XADD', changes, '1-' .. random, 'begun', '')
end

local function goes_on()
  if not log or not last or call('EXISTS', entries, ends) < 2 then return false end
  -- Changes of someone else may have come to have any number.
  local number, rest = parts(last)
  return number < NUMBER_END and rest < RANDOM_END
end
if not goes_on() then begin() end

local function append(run, sign, value)
  return run('XADD', changes, 'MAXLEN', '~', ARGV[4], whole(parts(last) + 1) .. '-' .. random, sign, value)
end

-- Before anything else is written: where this fails nothing has changed.
local function note(sign, changed)
  for first = 1, #changed, CHANGES_PER_ENTRY do
    local value = table.concat(changed, '', first, min(first + CHANGES_PER_ENTRY - 1, #changed))
    local id = append(redis.pcall, sign, value)
    if type(id) == 'table' then
      -- Changes were deleted by someone else: what their numbers were nobody can say.
      if string.find(id.err, 'smaller', 1, true) then begin() end
      id = append(call, sign, value)
    end
    last = id
  end
end

local function cutoff(entry) return struct.unpack('<dd', entry, CUTOFF) end

-- What of it is an entry that this version knows, and what is behind that.
local function split(kept)
  if kept and #kept >= SIZE and sub(kept, 17, 17) == VERSION then return sub(kept, 1, SIZE), sub(kept, SIZE + 1) end
end

-- The same, unless it is over.
local function standing(kept)
  local entry, known = split(kept)
  if not entry then return nil end
  local _, till = cutoff(entry)
  if till > now then return entry, known end
end

local function prune(most)
  local over = call('ZRANGEBYSCORE', ends, '-inf', whole(now), 'LIMIT', 0, most)
  if #over == 0 then return end
  local ids = { '' }
  for _, entry in ipairs(over) do
    -- One of a newer version may stand beside one of ours.
    if split(entry) then ids[#ids + 1] = sub(entry, 1, 16) end
  end
  call('ZREM', entries, unpack(over))
  call('ZREM', ends, unpack(over))
  call('HDEL', details, unpack(ids))
end

local told, status = {}, 'ok'
local function tell(text) told[#told + 1] = pack('<I4', #text) .. text end

if task == 'add' then
  prune((#ARGV - 6) / 2 + PRUNED)
  local ids = {}
  for place = 7, #ARGV, 2 do ids[#ids + 1] = sub(ARGV[place], 1, 16) end
  local was = call('HMGET', details, unpack(ids))
  -- By their ids, since one may be named twice: the entry before and after, when it ends, what is known of it.
  local first, is, ended, known, order = {}, {}, {}, {}, {}
  local changed, fresh = {}, 0
  for place, id in ipairs(ids) do
    local wish, text, entry = ARGV[2 * place + 5], ARGV[2 * place + 6], ''
    local which, before, keep, till, ahead = struct.unpack('<c1dc1dd', wish, 26)
    if which == 'b' then before = min(min(before, now) + ahead, LAST_MOMENT) end
    if keep == 'f' then till = min((before < huge and before or now) + till, LAST_MOMENT) end
    if till > now then
      local old = is[id]
      if not old then
        order[#order + 1] = id
        old, known[id] = split(was[place])
        first[id] = old
        if not old then fresh = fresh + 1 end
      end
      if old then
        local other, others_till = cutoff(old)
        if others_till > now then
          before, till = max(before, other), max(till, others_till)
        else
          known[id] = ''
        end
      end
      entry = id .. VERSION .. sub(wish, 17, 25) .. pack('<dd', before, till)
      if entry ~= old then changed[#changed + 1] = entry end
      is[id], ended[id] = entry, till
      if text == '-' then
        known[id] = ''
      elseif text ~= '' then
        known[id] = sub(text, 1, -2) .. ',"at":' .. whole(now) .. '}'
      end
    end
    tell(entry)
  end
  if fresh > 0 and call('ZCARD', entries) - 1 + fresh > tonumber(ARGV[5]) then
    status, told = 'full', {}
  elseif #order > 0 then
    note('+', changed)
    -- Few calls with many arguments each: Redis does nothing else meanwhile.
    local gone, by_id, by_end, kept = {}, {}, {}, {}
    for place, id in ipairs(order) do
      local entry = is[id]
      if first[id] ~= entry then gone[#gone + 1] = first[id] end
      by_id[2 * place - 1], by_id[2 * place] = 0, entry
      by_end[2 * place - 1], by_end[2 * place] = ended[id], entry
      kept[2 * place - 1], kept[2 * place] = id, entry .. (known[id] or '')
    end
    if #gone > 0 then
      call('ZREM', entries, unpack(gone))
      call('ZREM', ends, unpack(gone))
    end
    call('ZADD', entries, unpack(by_id))
    call('ZADD', ends, unpack(by_end))
    call('HSET', details, unpack(kept))
  end
elseif task == 'undo' then
  local entry, known = standing(call('HGET', details, ARGV[7]))
  if entry then
    tell(entry)
    tell(known)
    note('-', { entry })
    call('ZREM', entries, entry)
    call('ZREM', ends, entry)
    call('HDEL', details, ARGV[7])
  end
elseif task == 'find' then
  for _, kept in ipairs(call('HMGET', details, unpack(ARGV, 7))) do tell(standing(kept) or '') end
elseif task == 'news' then
  local after = ARGV[8]
  if ARGV[7] ~= log then
    status = 'gone'
  elseif after ~= last then
    local found = call('XRANGE', changes, after, '+', 'COUNT', READ_MAX + 1)
    if found[1] and found[1][1] == after then
      for place = 2, #found do
        local id, fields = found[place][1], found[place][2]
        local _, rest = parts(id)
        if rest >= RANDOM_END then
          -- Someone else's, and no place in the log can be told by it.
          begin()
          status = 'gone'
          break
        end
        tell(id)
        tell(fields[1])
        tell(fields[2])
      end
    else
      status = 'gone'
      local oldest = call('XRANGE', changes, '-', '+', 'COUNT', 1)[1]
      -- It was told, and is neither there nor too old to be: changes were lost, and others have or will have their numbers.
      if parts(after) >= parts(oldest[1]) then begin() end
    end
  end
else
  local found = call('ZRANGEBYLEX', entries, ARGV[7], '+', 'LIMIT', 0, ARGV[8])
  for _, entry in ipairs(found) do tell(entry) end
  if task == 'list' and #found > 0 then
    local ids = {}
    for place, entry in ipairs(found) do ids[place] = sub(entry, 1, 16) end
    for _, kept in ipairs(call('HMGET', details, unpack(ids))) do
      local _, known = split(kept)
      tell(known or '')
    end
  end
end

local rest = told
told = {}
tell(status)
tell(log)
tell(last)
tell(whole(now))
return table.concat(told) .. table.concat(rest)
