-- Adds what was used `age` microseconds ago, once for each mark (KEYS[1]), and says what buckets and windows then hold:
-- pairs of how much and of the microseconds until they are empty.

local ask = cjson.decode(ARGV[1])
local is_known = redis.call('EXISTS', KEYS[1]) == 1
local answer, after = {}, {}

for i, it in ipairs(ask.spends) do
  local key = KEYS[it.key]
  local before = after[it.key]
  if it.kind == 'bucket' then
    local held
    local amount = is_known and 0 or it.amount
    if before then
      held = math.max(0, before.held + amount)
    else
      held = bucket(key, it.per_minute, amount, ask.age)
    end
    after[it.key] = {held = held, per_minute = it.per_minute}
    answer[2 * i - 1], answer[2 * i] = exact(held), int(drains_in(held, it.per_minute))
  else
    local held, index, left
    if before then
      held, index, left = before.held, before.index, before.left
    else
      held, index, left = window(key, it.length)
    end
    -- What was used in a window that is over counts no more.
    local is_over = math.floor((now - ask.age) / math.max(1, it.length)) < index
      and math.floor(now / math.max(1, it.length)) == index
    if not is_known and not is_over then held = math.max(0, held + it.amount) end
    after[it.key] = {held = held, index = index, left = left}
    answer[2 * i - 1], answer[2 * i] = exact(held), int(left)
  end
end

if not is_known then
  redis.call('SET', KEYS[1], 1, 'PX', ask.keep)
  for key, it in pairs(after) do
    if it.per_minute then
      set_bucket(KEYS[key], it.per_minute, it.held)
    else
      set_window(KEYS[key], it.index, it.held, it.left)
    end
  end
end
return answer
