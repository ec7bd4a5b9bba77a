-- What every script begins with: time, buckets, windows, books. Computes what bucket.rs and book.rs compute; the laws in
-- tests/store.rs hold both to the same answers.
--
-- All reads of a script come before its first write: a key of a wrong type, a replica or a full memory then ends it
-- before anything was changed. Of its writes, one that takes memory comes first if there is any, since Redis checks
-- the memory only there.

local time = redis.call('TIME')
-- Microseconds since 1970, by the store's own clock.
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])

local MINUTE = 60000000
-- Milliseconds.
local MAX_KEEP = 86400000
local SLACK = 1 + 1e-9
local HORIZON = {0, 0.5, 1, 1.5, 2, 3, 4, 6, 8, 12, 20, 30}

local function int(number) return string.format('%.0f', number) end
local function exact(number) return string.format('%.17g', number) end

-- Numbers that a bucket or window key holds.
local function pair(key)
  local text = redis.call('GET', key)
  if not text then return nil end
  local first, second = string.match(text, '^(%S+) (%S+)$')
  first, second = tonumber(first), tonumber(second)
  if first and second then return first, second end
end

-- Keeps a key for at least so many microseconds more.
local function keep(key, micros)
  local millis = math.min(math.ceil(micros / 1000) + 1000, MAX_KEEP)
  if redis.call('PTTL', key) < millis then redis.call('PEXPIRE', key, int(millis)) end
end

-- Buckets: what is held, and since when that is so.

local function drained(held, per_minute, micros)
  return math.max(0, held - math.max(0, per_minute) * math.max(0, micros) / MINUTE)
end

-- Microseconds.
local function drains_in(amount, per_minute)
  if amount <= 0 then return 0 end
  if per_minute <= 0 then return MAX_KEEP * 1000 end
  return math.min(amount / per_minute * MINUTE, MAX_KEEP * 1000)
end

-- What a bucket holds now with `amount` put into it `age` microseconds ago.
local function bucket(key, per_minute, amount, age)
  local held, at = pair(key)
  if not held then held, at = 0, now - age end
  at = math.min(at, now)
  local moment = math.max(at, now - age)
  held = math.max(0, drained(held, per_minute, moment - at) + amount)
  return drained(held, per_minute, now - moment)
end

local function set_bucket(key, per_minute, held)
  if held <= 0 then
    redis.call('DEL', key)
  else
    local millis = math.min(math.ceil(drains_in(held, per_minute) / 1000) + 1000, MAX_KEEP)
    redis.call('SET', key, exact(held) .. ' ' .. int(now), 'PX', int(millis))
  end
end

-- Windows: which one, and what was counted in it.

local function window(key, length)
  length = math.max(1, length)
  local running = math.floor(now / length)
  local index, count = pair(key)
  -- The next one is there if the clock was set back; nobody gains by that.
  if index ~= running and index ~= running + 1 then index, count = running, 0 end
  return count, index, math.max(0, (index + 1) * length - now)
end

local function set_window(key, index, count, left)
  redis.call('SET', key, int(index) .. ' ' .. exact(count), 'PX', int(math.min(math.ceil(left / 1000) + 1000, MAX_KEEP * 400)))
end

-- Books of demand, each in three keys: leases by their end, what each lease stands for, and the sums of each group.
-- Sums are of multiples of 1/1024 and so exact.

local books = {}

local function expired(key)
  return redis.call('ZRANGEBYSCORE', key, '-inf', int(now))
end

local function subtract(book, packed)
  if not packed then return end
  local lease = cmsgpack.unpack(packed)
  local group = book.groups[lease[1]]
  if not group then return end
  group.n = group.n - 1
  group.now = group.now - lease[2]
  group.growth = group.growth - lease[3]
  if group.n <= 0 then book.groups[lease[1]] = nil end
  book.touched[lease[1]] = true
end

local function open(ends, leases, groups)
  if books[ends] then return books[ends] end
  local book = {ends = ends, leases = leases, sums = groups, groups = {}, touched = {}, entered = {}, gone = {}}
  books[ends] = book
  -- Whoever evicts keys takes one of the three: what is left says nothing. Calls that live are entered anew.
  if redis.call('ZCARD', ends) ~= redis.call('HLEN', leases) then
    book.broken = true
    return book
  end
  local flat = redis.call('HGETALL', groups)
  for i = 1, #flat, 2 do
    local it = cmsgpack.unpack(flat[i + 1])
    book.groups[flat[i]] = {tenant = it[1], weight = it[2], mean = it[3], n = it[4], now = it[5], growth = it[6]}
  end
  for _, lease in ipairs(expired(ends)) do
    subtract(book, redis.call('HGET', leases, lease))
    book.gone[lease] = true
  end
  return book
end

-- A lease that is in the book already is taken out first.
local function leave(book, lease)
  local entered = book.entered[lease]
  if entered then
    subtract(book, entered.packed)
    book.entered[lease] = nil
  elseif not book.broken and not book.gone[lease] then
    subtract(book, redis.call('HGET', book.leases, lease))
  end
  book.gone[lease] = true
end

local function group_name(call) return #call.tenant .. ':' .. call.tenant .. call.kind end

local function enter(book, lease, micros, call)
  leave(book, lease)
  local name = group_name(call)
  local group = book.groups[name] or {tenant = call.tenant, n = 0, now = 0, growth = 0}
  group.weight, group.mean = call.weight, call.mean
  group.n, group.now, group.growth = group.n + 1, group.now + call.now, group.growth + call.growth
  book.groups[name] = group
  book.touched[name] = true
  book.gone[lease] = nil
  book.entered[lease] = {packed = cmsgpack.pack({name, call.now, call.growth}), micros = micros}
end

local function write_gone(book)
  if book.broken then
    redis.call('DEL', book.ends, book.leases, book.sums)
    book.broken = nil
    return
  end
  for lease in pairs(book.gone) do
    redis.call('ZREM', book.ends, lease)
    redis.call('HDEL', book.leases, lease)
  end
end

local function write(book)
  local life = 0
  if next(book.entered) == nil or book.broken then write_gone(book) end
  for lease, it in pairs(book.entered) do
    redis.call('HSET', book.leases, lease, it.packed)
    redis.call('ZADD', book.ends, int(now + it.micros), lease)
    life = math.max(life, it.micros)
  end
  for name in pairs(book.touched) do
    local it = book.groups[name]
    if it then
      redis.call('HSET', book.sums, name, cmsgpack.pack({it.tenant, it.weight, it.mean, it.n, it.now, it.growth}))
    else
      redis.call('HDEL', book.sums, name)
    end
  end
  if next(book.entered) ~= nil then
    write_gone(book)
    for _, key in ipairs({book.ends, book.leases, book.sums}) do keep(key, life) end
  end
end

local function write_books()
  for _, book in pairs(books) do write(book) end
end

-- Books that only count leases, each in one key.

local function count(key, lease, micros)
  redis.call('ZADD', key, int(now + micros), lease)
  redis.call('ZREMRANGEBYSCORE', key, '-inf', int(now))
  keep(key, micros)
end
