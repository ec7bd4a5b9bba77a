-- Ends leases.

local leases = cjson.decode(ARGV[1])

for _, it in ipairs(leases) do
  for _, key in ipairs(it.counted) do redis.call('ZCARD', KEYS[key]) end
  for _, demand in ipairs(it.demands) do
    leave(open(KEYS[demand.key], KEYS[demand.leases], KEYS[demand.groups]), it.lease)
  end
end
for _, it in ipairs(leases) do
  for _, key in ipairs(it.counted) do redis.call('ZREM', KEYS[key], it.lease) end
end
write_books()
return {'1'}
