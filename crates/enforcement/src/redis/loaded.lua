if ARGV[1] ~= 'say' then return redis.error_reply('ERR aiquota: unknown operation') end
local key, now, member, before, kept, most = KEYS[1], redis.call('TIME')[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
if before ~= member then redis.call('ZREM', key, before) end
redis.call('ZADD', key, now, member)
redis.call('ZREMRANGEBYSCORE', key, '-inf', string.format('%.0f', now - kept))
redis.call('ZREMRANGEBYSCORE', key, '(' .. now, '+inf')
redis.call('ZREMRANGEBYRANK', key, 0, -1 - most)
redis.call('EXPIRE', key, kept)
return 1
