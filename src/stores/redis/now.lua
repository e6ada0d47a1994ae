-- The moment of a call; each script that has one is sent behind this. ARGV[1] is it in microseconds, or empty: the server's
-- own.
local now
if ARGV[1] == '' then
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
else
  now = tonumber(ARGV[1])
end

