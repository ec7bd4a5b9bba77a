-- Takes calls over from a replica that is silent: {microseconds since it was last heard, id and text of each}. What was
-- taken over and not confirmed is told again to who took it, so that a lost answer loses no call; another may have it
-- only when that one is silent for as long itself.
--
-- KEYS: replicas by when they will count as silent; that one's calls; what was taken over of it; who takes.

local ask = cjson.decode(ARGV[1])
local ends, live, taken, taker = KEYS[1], KEYS[2], KEYS[3], KEYS[4]

local holder = redis.call('GET', taker)
local silent_at = tonumber(redis.call('ZSCORE', ends, ask.silent) or '')
local is_silent = silent_at ~= nil and silent_at <= now
if holder and holder ~= ask.replica or not holder and not is_silent then return {'0'} end

local pending, heard = {}, nil
local flat = redis.call('HGETALL', taken)
for i = 1, #flat, 2 do
  local at, text = string.match(flat[i + 1], '^(%d+) (.+)$')
  if at and #pending < ask.most then
    pending[#pending + 1] = {flat[i], text}
    heard = tonumber(at)
  end
end
local fresh = {}
if is_silent and #pending < ask.most then
  local last = math.min(silent_at - ask.life, now)
  heard = heard or last
  flat = redis.call('HGETALL', live)
  for i = 1, #flat, 2 do
    if #pending + #fresh < ask.most then fresh[#fresh + 1] = {flat[i], flat[i + 1], last} end
  end
end

if #pending + #fresh == 0 then
  if is_silent then redis.call('ZREM', ends, ask.silent) end
  redis.call('DEL', taker)
  return {'0'}
end
redis.call('SET', taker, ask.replica, 'PX', int(ask.life / 1000))
for _, it in ipairs(fresh) do
  redis.call('HSET', taken, it[1], int(it[3]) .. ' ' .. it[2])
  redis.call('HDEL', live, it[1])
end
keep(taken, MAX_KEEP * 1000)
local answer = {int(now - heard)}
for _, them in ipairs({pending, fresh}) do
  for _, it in ipairs(them) do
    answer[#answer + 1] = it[1]
    answer[#answer + 1] = it[2]
  end
end
return answer
