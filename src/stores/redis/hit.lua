-- Counts hits of fixed windows, each by itself and in order, whether they fit or not: `hit` of domain/fixed.rs, word for word.
-- See acquire.lua for the states. Several questions may be asked together; see together.lua, which is sent behind this.
--
-- KEYS         question by question, the counters' states; one may be there twice.
-- ARGV[1]      the time in microseconds, or empty: the server's own.
-- ARGV[2..n]   the questions: a byte, how many keys are its own; then, for each counter, without anything in between, doubles:
--              length, limit, hits. No hits write nothing.
--
-- The answer is packed as that of acquire.lua, but told as of afterwards: whether what was counted is within the limit; then
-- the hits, or the time until the window ends; what is left; and that time, twice.

-- One question, and how many keys are those of earlier ones.
local function ask(asks, before)
  local call, pack, unpack = redis.call, struct.pack, struct.unpack
  local FOUR, SLACK_MS, TOTAL_MAX = '<dddd', 1000, 1000000000000000 -- TOTAL_MAX of domain/limit.rs
  local answer, asked = '', before

  for pos = 2, #asks, 24 do
    asked = asked + 1
    local key, length, limit, hits = KEYS[asked], unpack('<ddd', asks, pos)
    local raw, latest, used, epoch, cut = call('GET', key), now, 0, now, nil
    if raw then
      latest, used, epoch, cut = unpack(FOUR, raw)
      if latest < now then
        if latest - latest % length < now - now % length then used, epoch = 0, math.max(epoch + 1, now) end
        latest = now
      end
    end
    local after = latest - latest % length + length - now
    if hits > 0 then
      local lives = used > 0 and cut == length
      used = math.min(used + hits, TOTAL_MAX)
      if lives then
        -- Whoever counted in this window has set its life.
        call('SETRANGE', key, '0', pack('<ddd', latest, used, epoch))
      else
        call('SET', key, pack(FOUR, latest, used, epoch, length), 'PX', (after - after % 1000) / 1000 + SLACK_MS)
      end
    end
    if used > limit then
      answer = pack('<c0Bdddd', answer, 1, after, 0, after, after)
    else
      answer = pack('<c0Bdddd', answer, 0, hits, limit - used, after, after)
    end
  end
  return answer
end
