-- A replica says that it lives, which of its calls have something new to be told and which have ended: {how many of its
-- calls are known now, how many of those that it named were taken over, their ids, replicas that have gone silent}.
--
-- KEYS: replicas by when they will count as silent; this one's calls; what was taken over of it.

local ask = cjson.decode(ARGV[1])
local ends, live, taken = KEYS[1], KEYS[2], KEYS[3]

redis.call('HLEN', live)
local silent = {}
for _, name in ipairs(redis.call('ZRANGEBYSCORE', ends, '-inf', int(now), 'LIMIT', 0, 16)) do
  if name ~= ask.replica then silent[#silent + 1] = name end
end
-- Nobody has more than a life left, unless the clock was set back: who was lost then is not to be waited for until it is
-- there again. Who lives says so anew.
local beyond = redis.call('ZRANGEBYSCORE', ends, '(' .. int(now + ask.life), '+inf', 'LIMIT', 0, 16)
local lost, kept = {}, {}
for _, it in ipairs(ask.calls) do
  if redis.call('HEXISTS', taken, it[1]) == 1 then lost[#lost + 1] = it[1] else kept[#kept + 1] = it end
end
local over = {}
for _, id in ipairs(ask.ended) do
  if redis.call('HEXISTS', taken, id) == 1 then lost[#lost + 1] = id else over[#over + 1] = id end
end

for _, name in ipairs(beyond) do redis.call('ZADD', ends, int(now + ask.life), name) end
redis.call('ZADD', ends, int(now + ask.life), ask.replica)
if ask.anew then redis.call('DEL', live) end
for _, it in ipairs(kept) do redis.call('HSET', live, it[1], it[2]) end
for _, id in ipairs(over) do redis.call('HDEL', live, id) end
for _, key in ipairs({ends, live}) do keep(key, MAX_KEEP * 1000) end

local answer = {int(redis.call('HLEN', live)), int(#lost)}
for _, id in ipairs(lost) do answer[#answer + 1] = id end
for _, name in ipairs(silent) do answer[#answer + 1] = name end
return answer
