-- Calls that were taken over have their records: only that they were is remembered.
--
-- KEYS: what was taken over.

local ids = cjson.decode(ARGV[1])
local known = {}
for _, id in ipairs(ids) do
  if redis.call('HEXISTS', KEYS[1], id) == 1 then known[#known + 1] = id end
end
for _, id in ipairs(known) do redis.call('HSET', KEYS[1], id, '') end
return {'1'}
