-- Forgets what was charged to a counter. Its time stays, and a new epoch makes open leases of no account.
--
-- KEYS[1]  the counter's state (see acquire.lua).
local HEAD = '<I8I8I8I8'
local raw = redis.call('GET', KEYS[1])
if raw then
  local width, latest, _, epoch = struct.unpack(HEAD, raw)
  local state = struct.pack(HEAD, width, latest, 0, math.max(epoch + 1, latest))
  redis.call('SET', KEYS[1], state, 'KEEPTTL')
end
return ''
