-- The Lua library of token rate limits: counters of fixed windows, all that a request is under in one call.
--
-- KEYS, all in one hash slot: one counter each, an integer that expires with its window; as Higress' own module
-- writes them, which may read and write them too.
--
-- ARGV:
--   check   and for each key: tokens, seconds of its window; what takes the place of these is said below
--   probe   the same, but fails where writes do: a Redis that is full, or a replica, could not count what it admits
--   charge  tokens used, and for each key: tokens, seconds of its window
--   reserve need, hold id, hold seconds, and for each counter as above: holds need in all of them, if it is left in each
--           besides what is counted and held there, else in none
--   settle  tokens used, which may be 0, hold id, and for each counter as above: drops the hold everywhere and charges
--           Behind those both may have a percentage, at which somebody is to be warned of a counter: a charge that makes
--           what is counted reach so much of its tokens is answered with a fourth number, 1. Where the last key begins with
--           aiquota:warned: that is noted there too, and behind the percentage stands for each counter how much of its key
--           all values of its limit have in common.
--   renew   hold id, hold seconds   -> renewed: a hold that is gone is not made again
--   -> for each key {tokens, counted, seconds until it expires}. A missing counter is 0 and its whole window is left;
--      so is the window of one without expiry. What stands there instead of a counter is answered as it is, or as
--      'no counter', and never written.
--
-- What is held for requests in flight stands in two more keys for each counter. Behind the counters, for reserve and
-- settle, and alone for renew, come in the counters' order: aiquota:holds:<counter>, a zset of hold id -> unix second of
-- expiry, and aiquota:amounts:<counter>, a hash of hold id -> tokens, with their sum under the empty id. Both expire by
-- themselves. What reserve answers as counted has what others hold in it.
--
-- A charge counts where no more than the limit was counted before, so that a counter stops where it refuses. It opens
-- the window with the first tokens, and gives a window to a counter that has none.

-- A rule whose values may have limits of their own has two more keys before its counters, in the place of tokens and
-- seconds with: the field of the value in overrides.lua's hash, and 'overrides'; '' and 'override', for the
-- counter that a value found there has. Then the seconds of those after it are negative: they are for values that are not
-- found. What is not for this value is answered as a limit of the largest number, of which nothing is counted, and not
-- touched. An override may be edited: a window that lasts longer than it says now is shortened, also by a check.

-- aiquota:warned:{<rule name>}, a hash: which limits counters came near to, none of which it names. Of each
-- <percentage>:<tokens, none for override>:<beginning of the counter's key> -> <since>/<till>/<last>/<counters>, in unix
-- seconds: how many counters came there since then, until when it is one and the same warning (when the first of their
-- windows ends), and when the last of them ends. Each is at least NOTED seconds, so that who looks every minute sees it.
-- It expires with the last; what is over is taken out by what is noted anew.

local MAX = 9007199254740991
local NOTED = 120
local EXPIRED_PER_CALL = 64
local operation, counters, used, first = ARGV[1], #KEYS, 0, 2
local need, id, seconds, warns, noted = nil, nil, nil, nil, nil
if counters > 0 and string.sub(KEYS[counters], 1, 15) == 'aiquota:warned:' then
  noted, counters = KEYS[counters], counters - 1
end
if operation == 'charge' then
  used, first = tonumber(ARGV[2]), 3
elseif operation == 'reserve' then
  need, id, seconds, first, counters = tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4]), 5, counters / 3
elseif operation == 'settle' then
  used, id, first, counters = tonumber(ARGV[2]), ARGV[3], 4, counters / 3
elseif operation == 'renew' then
  local till = redis.call('TIME')[1] + tonumber(ARGV[3])
  for i = 1, #KEYS, 2 do
    if redis.call('ZADD', KEYS[i], 'XX', 'CH', till, ARGV[2]) == 1 then
      redis.call('EXPIRE', KEYS[i], 2 * ARGV[3])
      redis.call('EXPIRE', KEYS[i + 1], 2 * ARGV[3])
    end
  end
  return { 'renewed' }
elseif operation ~= 'check' and operation ~= 'probe' then
  return redis.error_reply('ERR aiquota: unknown operation')
end

if used > 0 then warns = tonumber(ARGV[first + 2 * counters]) end

local answers, override, probes = {}, nil, operation == 'probe'
local function asked(limit, window, key)
  if window == 'overrides' then
    local found = redis.pcall('HGET', key, limit)
    local tokens, seconds = string.match(type(found) == 'string' and found or '', '^(%d+)/(%d+)$')
    override = tokens and { tokens, seconds }
  elseif window == 'override' then
    if override then return override[1], override[2] end
  elseif string.sub(window, 1, 1) ~= '-' then
    return limit, window
  elseif not override then
    return limit, string.sub(window, 2)
  end
end

local function count(key, limit, window, shortened)
  local stored = redis.pcall('GET', key)
  local counted = 0
  if type(stored) == 'table' then
    counted = 'no counter'
  elseif stored then
    -- What Redis would count with, and a double holds; what is more is over any limit.
    counted = (stored == '0' or string.find(stored, '^-?[1-9]%d*$')) and tonumber(stored) or stored
    if type(counted) == 'number' then
      counted = math.min(counted, MAX + 1)
      if counted < -MAX then counted = stored end
    end
  end
  local left, warned = tonumber(window), nil
  if type(counted) == 'number' then
    if used > 0 and counted <= tonumber(limit) then
      counted = redis.call('INCRBY', key, ARGV[2])
      if counted == used or redis.call('TTL', key) < 0 then redis.call('EXPIRE', key, window) end
      local share = limit * (warns or 0)
      if warns and counted * 100 >= share and (counted - used) * 100 < share then warned = 1 end
    end
    if probes then
      -- Changes nothing, makes no key.
      redis.call('SETRANGE', key, 0, '')
      probes = false
    end
    local ttl = redis.call('TTL', key)
    if shortened and ttl > left then
      redis.call('EXPIRE', key, window)
    elseif ttl >= 0 then
      left = ttl
    end
  end
  return { tonumber(limit), counted, left, warned }
end

-- Notes that a counter came near to its limit, whose window lasts so much longer.
local function note(i, left)
  local now, common = tonumber(redis.call('TIME')[1]), tonumber(ARGV[first + 2 * counters + i])
  local field = warns .. ':' .. ARGV[first + 2 * i - 2] .. ':' .. string.sub(KEYS[i], 1, common)
  local stored = redis.pcall('HGET', noted, field)
  -- Whatever else stands there stays.
  if type(stored) == 'table' then return end
  local ends = now + math.max(left, NOTED)
  local since, till, last, many = string.match(stored or '', '^(%d+)/(%d+)/(%d+)/(%d+)$')
  if not since or tonumber(till) <= now then
    since, till, many = now, ends, 0
    local all = redis.call('HGETALL', noted)
    for at = 1, #all, 2 do
      if tonumber(string.match(all[at + 1], '(%d+)/%d+$') or 0) <= now then redis.call('HDEL', noted, all[at]) end
    end
  end
  last = math.max(ends, tonumber(last or 0))
  redis.call('HSET', noted, field, since .. '/' .. till .. '/' .. last .. '/' .. many + 1)
  if redis.call('TTL', noted) < last - now then redis.call('EXPIRE', noted, last - now) end
end

-- A stored amount; what is none counts nothing.
local function amount(text)
  return text and string.find(text, '^-?%d+$') and tonumber(text) or 0
end

-- Drops some holds of a counter and answers what is still held.
local function drop(i, ids)
  local holds, amounts, less = KEYS[counters + 2 * i - 1], KEYS[counters + 2 * i], 0
  for _, stored in ipairs(redis.call('HMGET', amounts, unpack(ids))) do
    less = less + amount(stored)
  end
  redis.call('ZREM', holds, unpack(ids))
  redis.call('HDEL', amounts, unpack(ids))
  if redis.call('EXISTS', holds) == 0 then
    redis.call('DEL', amounts)
    return 0
  end
  return less > 0 and redis.call('HINCRBY', amounts, '', -less) or amount(redis.call('HGET', amounts, ''))
end

-- What others hold of a counter, and what this request holds already. Holds that expired are dropped, some per call;
-- those that vanished from Redis do not count either.
local function held(i)
  local holds, amounts = KEYS[counters + 2 * i - 1], KEYS[counters + 2 * i]
  local stored = redis.call('HMGET', amounts, '', id)
  local sum, own = amount(stored[1]), amount(stored[2])
  if stored[1] then
    local old = redis.call('ZRANGEBYSCORE', holds, '-inf', redis.call('TIME')[1], 'LIMIT', 0, EXPIRED_PER_CALL)
    if #old > 0 or redis.call('EXISTS', holds) == 0 then
      sum = drop(i, #old > 0 and old or { id })
      own = amount(redis.call('HGET', amounts, id))
    end
  end
  return math.max(0, sum - own), own
end

local fits, owns = need, {}
for i = 1, counters do
  local said = ARGV[first + 2 * i - 1]
  local limit, window = asked(ARGV[first + 2 * i - 2], said, KEYS[i])
  if operation == 'settle' and redis.call('HEXISTS', KEYS[counters + 2 * i], id) == 1 then drop(i, { id }) end
  local answer = limit and count(KEYS[i], limit, window, said == 'override') or { MAX, 0, 0 }
  if answer[4] and noted then note(i, answer[3]) end
  if need and limit then
    if type(answer[2]) == 'number' then
      local others, own = held(i)
      owns[i] = own
      answer[2] = math.min(answer[2] + others, MAX + 1)
      fits = fits and answer[2] + need <= answer[1]
    else
      fits = false
    end
  end
  answers[i] = answer
end
if fits then
  local till = redis.call('TIME')[1] + seconds
  for i, own in pairs(owns) do
    local holds, amounts = KEYS[counters + 2 * i - 1], KEYS[counters + 2 * i]
    redis.call('ZADD', holds, till, id)
    redis.call('HSET', amounts, id, need)
    redis.call('HINCRBY', amounts, '', need - own)
    redis.call('EXPIRE', holds, 2 * seconds)
    redis.call('EXPIRE', amounts, 2 * seconds)
  end
end
return answers
