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
--
-- With a thousand replicas each of them asks once a second, so no replica of the string is looked at by itself unless its
-- time or its epoch is an odd one.
local call, pack, unpack, sub = redis.call, struct.pack, struct.unpack, string.sub

local epoch = call('GET', KEYS[2])
if not epoch then
  epoch = ARGV[4]
  call('SET', KEYS[2], epoch)
end

local replica, named, life, most = ARGV[2], ARGV[3], tonumber(ARGV[5]), tonumber(ARGV[6])
local size = 16 + #epoch
local own = replica .. pack('<I8', now) .. (named == '' and epoch or named)
local raw = call('GET', KEYS[1]) or ''
local function moment(pos) return (unpack('<I8', raw, pos + 8)) end

-- The latest come first, so those that are over are the last ones.
local first, last = 1, #raw - #raw % size
while last > 0 and moment(last - size + 1) <= now - life do last = last - size end
-- One from a time that this server's clock has not reached was there as lately as any.
local ahead = ''
while first <= last and moment(first) > now do
  ahead = ahead .. sub(raw, first, first + 7) .. pack('<I8', now) .. sub(raw, first + 16, first + size - 1)
  first = first + size
end
local there = ahead .. sub(raw, first, last)
-- What this one said before is found by its name, unless that is only a piece of something else.
local found = string.find(there, replica, 1, true)
while found and (found - 1) % size ~= 0 do found = string.find(there, replica, found + 1, true) end
if found then there = sub(there, 1, found - 1) .. sub(there, found + size) end
there = own .. sub(there, 1, (most - 1) * size)
call('SET', KEYS[1], there, 'PX', math.ceil(life / 1000))

-- All at once where all named this epoch: it is made of letters and digits, which a pattern takes as they are.
local heard, told = string.gsub(there, '(........)........' .. epoch, '%1t')
if told * size ~= #there then
  local each = {}
  for pos = 1, #there, size do
    each[#each + 1] = sub(there, pos, pos + 7) .. (sub(there, pos + 16, pos + size - 1) == epoch and 't' or 'o')
  end
  heard = table.concat(each)
end
return epoch .. pack('<I8', now) .. heard
