-- Says that a replica is there, counts who else is, and names the epoch of the data.
--
-- KEYS[1]  the replicas, KEYS[2] the epoch: a text, which is new whenever the data was lost.
-- ARGV[1]  the time in microseconds, or empty: the server's own.
-- ARGV[2]  the replica, 8 bytes.
-- ARGV[3]  the epoch that knows what it admitted, or empty: it admitted nothing.
-- ARGV[4]  a new epoch, for when there is none. Epochs are all of one length.
-- ARGV[5]  for how long a replica counts as there, in microseconds.
-- ARGV[6]  the most replicas that are counted.
--
-- The replicas are a string: for each its name, the moment of its latest pulse, n or o, and the epoch that it named, the
-- latest pulse first; n are those that have known no other epoch. The answer is the number of replicas, the number of those
-- that named this epoch, of n among these, and the epoch.
local call, pack, unpack, sub = redis.call, struct.pack, struct.unpack, string.sub

local epoch = call('GET', KEYS[2])
if not epoch then
  epoch = ARGV[4]
  call('SET', KEYS[2], epoch)
end

local replica, life = ARGV[2], tonumber(ARGV[5])
local named, fresh = ARGV[3], ARGV[3] == ''
if fresh then named = epoch end
local size = 17 + #epoch
-- The first place is this replica's.
local there, told, new = { '' }, 0, 0
local raw = call('GET', KEYS[1]) or ''
for pos = 1, #raw - size + 1, size do
  local other, at, state = sub(raw, pos, pos + 7), unpack('<I8', raw, pos + 8), sub(raw, pos + 16, pos + size - 1)
  if other == replica then
    fresh = fresh or state == 'n' .. named
  -- One from a time that this server's clock has not reached was there as lately as any.
  elseif at > now - life and #there < tonumber(ARGV[6]) then
    there[#there + 1] = other .. pack('<I8', math.min(at, now)) .. state
    if sub(state, 2) == epoch then told = told + 1 end
    if state == 'n' .. epoch then new = new + 1 end
  end
end
local state = (fresh and 'n' or 'o') .. named
if named == epoch then told = told + 1 end
if state == 'n' .. epoch then new = new + 1 end
there[1] = replica .. pack('<I8', now) .. state
call('SET', KEYS[1], table.concat(there), 'PX', math.ceil(life / 1000))
return pack('<I8I8I8', #there, told, new) .. epoch
