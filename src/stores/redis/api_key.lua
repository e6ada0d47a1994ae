-- Reads or changes what is kept of API keys.
--
-- KEYS[1]  the record of a key, a hash; for `ids`, `enlist` and `strike` the set of all ids.
-- ARGV[1]  what is to be done:
--   find     answers the record's fields and values as a list in JSON; without a record, an empty one.
--   add      makes a record of the fields and values from ARGV[3] on, unless there is one.
--   expire   has a key end at the date ARGV[3], unless it ends before that.
--   revoke   has a key end now.
--   use      notes that a key is used now.
--   ids      answers all ids as a list in JSON.
--   enlist   puts the id ARGV[2] into the set; `strike` takes it out.
-- ARGV[2]  when the record is dropped: for `add` and `expire` in milliseconds since the Unix epoch, or empty: never; for
--          `revoke` in milliseconds from now.
--
-- Changes answer 1; or 0 where there is no record, or for `add` where there is one. Dates are compared as texts.
local call, task, key = redis.call, ARGV[1], KEYS[1]

if task == 'find' then return cjson.encode(call('HGETALL', key)) end
if task == 'ids' then return cjson.encode(call('SMEMBERS', key)) end
if task == 'enlist' then call('SADD', key, ARGV[2]) return '1' end
if task == 'strike' then call('SREM', key, ARGV[2]) return '1' end

if (call('EXISTS', key) == 1) == (task == 'add') then return '0' end
if task == 'use' then
  call('HSET', key, 'used', call('TIME')[1])
elseif task == 'revoke' then
  call('HSET', key, 'revoked', '1')
  call('PEXPIRE', key, ARGV[2])
elseif task == 'expire' then
  local expires = call('HGET', key, 'expires')
  if not expires or ARGV[3] < expires then
    call('HSET', key, 'expires', ARGV[3])
    -- A revoked one is dropped as it was to be.
    if call('PTTL', key) < 0 or not call('HGET', key, 'revoked') then call('PEXPIREAT', key, ARGV[2]) end
  end
else
  call('HSET', key, unpack(ARGV, 3))
  if ARGV[2] ~= '' then call('PEXPIREAT', key, ARGV[2]) end
end
return '1'
