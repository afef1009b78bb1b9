-- The Lua library of token rate limits: counters of fixed windows, all that a request is under in one call.
--
-- KEYS, all in one hash slot: one counter each, an integer that expires with its window; as Higress' own module
-- writes them, which may read and write them too.
--
-- ARGV:
--   check   and for each key: tokens, seconds of its window; what takes the place of these is said below
--   probe   the same, but fails where writes do: a Redis that is full, or a replica, could not count what it admits
--   charge  tokens used, and for each key: tokens, seconds of its window
--   -> for each key {tokens, counted, seconds until it expires}. A missing counter is 0 and its whole window is left;
--      so is the window of one without expiry. What stands there instead of a counter is answered as it is, or as
--      'no counter', and never written.
--
-- A charge counts where no more than the limit was counted before, so that a counter stops where it refuses. It opens
-- the window with the first tokens, and gives a window to a counter that has none.

-- A rule whose values may have limits of their own has two more keys before its counters, in the place of tokens and
-- seconds with: what is hashed to look a value up in overrides.lua's hash, and 'overrides'; '' and 'override', for the
-- counter that a value found there has. Then the seconds of those after it are negative: they are for values that are not
-- found. What is not for this value is answered as a limit of the largest number, of which nothing is counted, and not
-- touched. An override may be edited: a window that lasts longer than it says now is shortened, also by a check.

local MAX = 9007199254740991
local used, first = 0, 2
if ARGV[1] == 'charge' then
  used, first = tonumber(ARGV[2]), 3
elseif ARGV[1] ~= 'check' and ARGV[1] ~= 'probe' then
  return redis.error_reply('ERR aiquota: unknown operation')
end

local answers, override, probes = {}, nil, ARGV[1] == 'probe'
local function asked(limit, window, key)
  if window == 'overrides' then
    local found = redis.pcall('HGET', key, redis.sha1hex(limit))
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
  local left = tonumber(window)
  if type(counted) == 'number' then
    if used > 0 and counted <= tonumber(limit) then
      counted = redis.call('INCRBY', key, ARGV[2])
      if counted == used or redis.call('TTL', key) < 0 then redis.call('EXPIRE', key, window) end
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
  return { tonumber(limit), counted, left }
end

for i, key in ipairs(KEYS) do
  local said = ARGV[first + 2 * i - 1]
  local limit, window = asked(ARGV[first + 2 * i - 2], said, key)
  answers[i] = limit and count(key, limit, window, said == 'override') or { MAX, 0, 0 }
end
return answers
