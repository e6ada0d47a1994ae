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
-- The replicas are a string: for each its name, the moment of its latest pulse and the epoch that it named, the latest
-- pulse first. The answer is the number of replicas, the number of those that named this epoch, and the epoch.
local call, pack, unpack, sub = redis.call, struct.pack, struct.unpack, string.sub

local now
if ARGV[1] == '' then
  local time = call('TIME')
  now = time[1] * 1000000 + time[2]
else
  now = tonumber(ARGV[1])
end

local epoch = call('GET', KEYS[2])
if not epoch then
  epoch = ARGV[4]
  call('SET', KEYS[2], epoch)
end

local replica, life = ARGV[2], tonumber(ARGV[5])
local size = 16 + #epoch
local there = { replica .. pack('<I8', now) .. (ARGV[3] == '' and epoch or ARGV[3]) }
local told = sub(there[1], 17) == epoch and 1 or 0
local raw = call('GET', KEYS[1]) or ''
for pos = 1, #raw - size + 1, size do
  if #there == tonumber(ARGV[6]) then break end
  local at = unpack('<I8', raw, pos + 8)
  -- One from a time that this server's clock has not reached was there as lately as any.
  if sub(raw, pos, pos + 7) ~= replica and at > now - life then
    there[#there + 1] = sub(raw, pos, pos + 7) .. pack('<I8', math.min(at, now)) .. sub(raw, pos + 16, pos + size - 1)
    if sub(raw, pos + 16, pos + size - 1) == epoch then told = told + 1 end
  end
end
call('SET', KEYS[1], table.concat(there), 'PX', math.ceil(life / 1000))
return pack('<I8I8', #there, told) .. epoch
