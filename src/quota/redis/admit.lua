-- Lets one call in if every check passes: {1, what the last book expects, and for each check what its bucket or window then
-- holds}, or {0, number of the check, whether it was for fairness, microseconds until it may be tried again}.

local ask = cjson.decode(ARGV[1])

local function add(curve, mean, demand, growth)
  for i, minutes in ipairs(HORIZON) do
    curve[i] = (curve[i] or 0) + math.exp(-minutes / mean) * math.max(0, demand + growth * minutes)
  end
end

-- The highest demand with the call, what its tenant's is at each point, and the weight of all tenants.
local function curves(book, call)
  local name = group_name(call)
  local total, own, weights = {}, {}, {[call.tenant] = call.weight}
  local known = book.groups[name] or {now = 0, growth = 0}
  add(own, call.mean, known.now + call.now, known.growth + call.growth)
  for it, group in pairs(book.groups) do
    if it ~= name then
      if group.tenant == call.tenant then
        add(own, group.mean, group.now, group.growth)
      else
        add(total, group.mean, group.now, group.growth)
        weights[group.tenant] = math.max(weights[group.tenant] or 0, group.weight)
      end
    end
  end
  local peak, weight = 0, 0
  for i = 1, #HORIZON do peak = math.max(peak, (total[i] or 0) + own[i]) end
  for _, it in pairs(weights) do weight = weight + it end
  return peak, own, weight
end

local function judge(book, it)
  local peak, own, weights = curves(book, it.call)
  if it.call.now == 0 and it.call.growth == 0 then return nil, peak end
  if peak > it.capacity * SLACK then return 'full' end
  if peak > it.fair_from * it.capacity * SLACK then
    local share = it.capacity * it.call.weight / weights
    for i = 1, #HORIZON do
      if own[i] > share * SLACK then return 'unfair' end
    end
  end
  return nil, peak
end

-- In how many microseconds one of the calls can be expected to have ended.
local function next_end(book)
  local rate = 0
  for _, group in pairs(book.groups) do rate = rate + group.n / group.mean end
  return rate > 0 and math.min(MINUTE / rate, MAX_KEEP * 1000) or MAX_KEEP * 1000
end

local expected, held = 0, {}
for i, it in ipairs(ask.checks) do
  local key = KEYS[it.key]
  local wait, unfair = nil, 0
  if it.kind == 'bucket' then
    local over = bucket(key, it.per_minute, 0, 0) + it.amount - it.burst * SLACK
    if over > 0 then wait = drains_in(over, it.per_minute) end
  elseif it.kind == 'window' then
    local count, _, left = window(key, it.length)
    if count >= it.limit then wait = left end
    held[i] = count
  elseif it.kind == 'leases' then
    local n = redis.call('ZCOUNT', key, '(' .. int(now), '+inf')
    if n >= it.limit then wait = n > 0 and ask.mean * MINUTE / n or MAX_KEEP * 1000 end
  else
    local book = open(key, KEYS[it.leases], KEYS[it.groups])
    -- Whether it can be taken out is found before anything is written.
    redis.call('HGET', book.leases, ask.lease)
    local refusal, peak = judge(book, it)
    if refusal then
      wait = next_end(book)
      unfair = refusal == 'unfair' and 1 or 0
    else
      expected = peak / math.max(it.capacity, 1)
    end
  end
  if wait then
    write_books()
    return {'0', int(i), int(unfair), int(math.min(wait, MAX_KEEP * 1000))}
  end
end

for _, it in ipairs(ask.checks) do
  if it.kind == 'demand' then enter(open(KEYS[it.key]), ask.lease, ask.life, it.call) end
end
for _, it in ipairs(ask.checks) do
  if it.kind == 'leases' then count(KEYS[it.key], ask.lease, ask.life) end
end
write_books()
local answer = {'1', exact(expected)}
for i, it in ipairs(ask.checks) do
  if it.kind == 'bucket' then
    held[i] = bucket(KEYS[it.key], it.per_minute, it.amount, 0)
    if it.amount ~= 0 then set_bucket(KEYS[it.key], it.per_minute, held[i]) end
  end
  answer[i + 2] = exact(held[i] or 0)
end
return answer
