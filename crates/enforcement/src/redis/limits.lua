-- The Lua library of token rate limits: counters of fixed windows, all that a request is under in one call.
--
-- KEYS, all in one hash slot: one counter each, an integer that expires with its window; as Higress' own module
-- writes them, which may read and write them too.
--
-- ARGV:
--   check   and for each key: tokens, seconds of its window
--   charge  tokens used, and for each key: tokens, seconds of its window
--   -> for each key {tokens, counted, seconds until it expires}. A missing counter is 0 and its whole window is left;
--      so is the window of one without expiry. What stands there instead of a counter is answered as it is, or as
--      'no counter', and never written.
--
-- A charge counts where no more than the limit was counted before, so that a counter stops where it refuses. It opens
-- the window with the first tokens, and gives a window to a counter that has none.

local MAX = 9007199254740991
local used, first = 0, 2
if ARGV[1] == 'charge' then
  used, first = tonumber(ARGV[2]), 3
elseif ARGV[1] ~= 'check' then
  return redis.error_reply('ERR aiquota: unknown operation')
end

local answers = {}
for i, key in ipairs(KEYS) do
  local limit, window = ARGV[first + 2 * i - 2], ARGV[first + 2 * i - 1]
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
  local left = tonumber(window)
  if type(counted) == 'number' then
    if used > 0 and counted <= tonumber(limit) then
      counted = redis.call('INCRBY', key, ARGV[2])
      if counted == used or redis.call('TTL', key) < 0 then redis.call('EXPIRE', key, window) end
    end
    local ttl = redis.call('TTL', key)
    if ttl >= 0 then left = ttl end
  end
  answers[i] = { tonumber(limit), counted, left }
end
return answers
