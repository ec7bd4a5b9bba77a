-- Keeps leases alive, and enters those that are not known.

local leases = cjson.decode(ARGV[1])

for _, it in ipairs(leases) do
  for _, key in ipairs(it.counted) do redis.call('ZCARD', KEYS[key]) end
  for _, demand in ipairs(it.demands) do
    enter(open(KEYS[demand.key], KEYS[demand.leases], KEYS[demand.groups]), it.lease, it.life, demand.call)
  end
end
for _, it in ipairs(leases) do
  for _, key in ipairs(it.counted) do count(KEYS[key], it.lease, it.life) end
end
write_books()
return {'1'}
