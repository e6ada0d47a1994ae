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
-- The replicas are a string: for each its name, the moment of its latest pulse and the epoch that it named, the latest pulse
-- first. The answer is the epoch, the time in 8 bytes, and for each replica its name and t when it named this epoch, else o.
local call, pack, unpack, sub = redis.call, struct.pack, struct.unpack, string.sub

local epoch = call('GET', KEYS[2])
if not epoch then
  epoch = ARGV[4]
  call('SET', KEYS[2], epoch)
end

local replica, named, life, most = ARGV[2], ARGV[3], tonumber(ARGV[5]), tonumber(ARGV[6])
local size = 16 + #epoch
local there, heard = {}, {}
local function note(who, at, state)
  there[#there + 1] = who .. pack('<I8', at) .. state
  heard[#heard + 1] = who .. (state == epoch and 't' or 'o')
end

note(replica, now, named == '' and epoch or named)
local raw = call('GET', KEYS[1]) or ''
for pos = 1, #raw - size + 1, size do
  local other, at = sub(raw, pos, pos + 7), unpack('<I8', raw, pos + 8)
  if other ~= replica and at > now - life and #there < most then
    -- One from a time that this server's clock has not reached was there as lately as any.
    note(other, math.min(at, now), sub(raw, pos + 16, pos + size - 1))
  end
end
call('SET', KEYS[1], table.concat(there), 'PX', math.ceil(life / 1000))
return epoch .. pack('<I8', now) .. table.concat(heard)
