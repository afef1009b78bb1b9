-- The Lua library of aiquota: every change of a balance that is more than one command. Redis 6.2 and newer.
--
-- KEYS, all in one hash slot:
--   1 balance   string  <key prefix><consumer>: an integer, no expiry; upstream's module may read and write it
--   2 ledger    hash    {balance}:ledger, fields below
--   3 holds     zset    {balance}:holds: id -> unix second of expiry
--   4 amounts   hash    {balance}:amounts: id -> tokens
--
-- Fields of the ledger:
--   layout      version of these fields, "1"; a ledger of another version is not touched
--   owner       object the balance belongs to
--   uid, term, generation   fence of the last controller write: see apply
--   grant       tokens a period gives; absent for a consumer that was always unlimited
--   unlimited   "1": passes without limit, usage is still counted
--   schedule, ordinal       the schedule it follows and the period it is in; absent without refresh
--   used        tokens spent in this period
--   held        sum of amounts
--   parked      tokens kept for a consumer that is not listed any more; its balance does not exist. Once such
--               a consumer lives on a default: what listing it again adds to its balance
--   lazy        "1": a request made the balance from its policy's default, no object lists the consumer
--
-- ARGV, with "" for what is absent:
--   check   need, hold id, hold seconds, default grant, default owner, PERIOD
--           -> unlimited, ordinal | admitted, available, ordinal | refused, available | malformed, value
--   charge  tokens, hold id, ordinal at admission, PERIOD
--           -> booked, balance | forgiven | absent | malformed, value
--   apply   owner, term, uid, generation, grant or "unlimited", takeover 0 or 1, PERIOD
--           -> applied, changed 0 or 1, balance, used | conflict, owner, lazy 0 or 1 | stale | malformed, value
--   query   PERIOD         -> balance, tokens | malformed, value
--   set     value, PERIOD  -> balance, tokens | range
--   add     value, PERIOD  -> balance, tokens | range | malformed, value
--   PERIOD is nothing, or: schedule, mode (reset | add | carryover), cap, then 1 to n of: ordinal, unix second.
--   Any of them -> layout, version.
--
-- Amounts are integers within 2^53-1 of zero, which Lua's doubles hold exactly; sums saturate there. The script is
-- compiled once but its functions are made anew in every call: few of them, and what is rare stands where it is used.

local MAX = 9007199254740991
local EXPIRED_PER_CALL = 64
local BALANCE, LEDGER, HOLDS, AMOUNTS = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local operation = ARGV[1]

-- What is stored. -----------------------------------------------------------------------------------------------

local stored = redis.pcall('HMGET', LEDGER, 'layout', 'owner', 'uid', 'schedule', 'unlimited', 'lazy',
  'term', 'generation', 'grant', 'ordinal', 'used', 'held', 'parked')
if stored.err then return { 'malformed', 'the ledger is not a hash' } end
local ledger = stored[1]
if ledger and ledger ~= '1' then return { 'layout', ledger } end
for i = 7, 13 do
  if stored[i] then
    local n = tonumber(stored[i])
    if not n or n % 1 ~= 0 or n > MAX or n < -MAX then
      local names = { 'term', 'generation', 'grant', 'ordinal', 'used', 'held', 'parked' }
      return { 'malformed', 'ledger ' .. names[i - 6] .. ' ' .. stored[i] }
    end
    stored[i] = n
  end
end
local owner, uid, schedule, unlimited, lazy = stored[2], stored[3], stored[4], stored[5] == '1', stored[6] == '1'
local term, generation, grant, ordinal = stored[7] or 0, stored[8] or 0, stored[9], stored[10]
local used, held, parked = stored[11] or 0, stored[12] or 0, stored[13]

-- The integer a text is, if Redis would count with it and a double holds it; otherwise nil.
local function int(text)
  if not (text == '0' or string.find(text, '^-?[1-9]%d*$')) then return nil end
  local n = tonumber(text)
  if n > MAX or n < -MAX then return nil end
  return n
end

-- The balance: an integer, false where there is none, and otherwise `broken` shows what stands there instead.
local balance, broken = redis.pcall('GET', BALANCE), nil
if type(balance) == 'table' then
  balance, broken = nil, 'not a string'
elseif balance then
  broken = balance
  balance = int(balance)
  if balance then broken = nil end
end

-- The period: what the caller says, decided by Redis' clock. ----------------------------------------------------

local first
if operation == 'check' then first = 7
elseif operation == 'charge' then first = 5
elseif operation == 'apply' then first = 8
elseif operation == 'query' then first = 2
elseif operation == 'set' or operation == 'add' then first = 3
else return redis.error_reply('ERR aiquota: unknown operation') end
local their, mode, current, reached = ARGV[first] or false, ARGV[first + 1], nil, false
if their then
  local now = tonumber(redis.call('TIME')[1])
  current = tonumber(ARGV[first + 3]) - 1
  for i = first + 3, #ARGV, 2 do
    if tonumber(ARGV[i + 1]) > now then break end
    current, reached = tonumber(ARGV[i]), true
  end
end

-- Changes. ------------------------------------------------------------------------------------------------------

local changed = 0

-- The text of an integer; adding 0 turns a negative zero into zero.
local function text(n)
  return string.format('%.0f', n + 0)
end

local function clamp(n)
  return math.max(-MAX, math.min(MAX, n))
end

local function save(...)
  redis.call('HSET', LEDGER, ...)
  changed = 1
end

local function forget(...)
  redis.call('HDEL', LEDGER, ...)
  changed = 1
end

local function write(n)
  balance = n
  redis.call('SET', BALANCE, text(n))
  changed = 1
end

-- Follow the caller's schedule from its current period on; nothing is granted for it.
local function follow()
  if their then
    save('schedule', their, 'ordinal', text(current))
    schedule, ordinal = their, current
  elseif schedule then
    forget('schedule', 'ordinal')
    schedule, ordinal = false, false
  end
end

-- What is refused before anything changes, and who follows which schedule. --------------------------------------

local ours, value = false, nil
if operation == 'check' then
  -- No controller writes these ledgers: the policy that made them carries its edits to them.
  ours = lazy and ARGV[5] ~= '' and owner == ARGV[6]
  if ours and schedule ~= their then follow() end
elseif operation == 'apply' then
  if ledger then
    -- The term first; the generation only under the same uid.
    local to_term = tonumber(ARGV[3])
    if to_term < term then return { 'stale' } end
    if owner and owner ~= ARGV[2] and ARGV[7] ~= '1' then return { 'conflict', owner, lazy and 1 or 0 } end
    if to_term == term and owner == ARGV[2] and uid == ARGV[4] and tonumber(ARGV[5]) < generation then
      return { 'stale' }
    end
  end
elseif operation == 'set' or operation == 'add' then
  value = int(ARGV[2])
  if not value then return { 'range' } end
end

-- Roll: gives what the boundaries that passed give. A parked amount gets no grants, but a Reset makes it the grant:
-- usage of an older period is forgiven to everybody. What cannot be counted with keeps its period, so that it rolls
-- when it is repaired; who sets it repairs it. Boundaries that all lie ahead of Redis' clock roll nothing: the
-- caller's clock is wrong, and what lies before them is not known. -------------------------------------------------

if ledger and reached and schedule == their and ordinal and current > ordinal
  and (not broken or unlimited or operation == 'set') then
  local away = parked and not lazy and not balance and not broken
  if grant and not broken and not away then
    local to = grant
    if mode ~= 'reset' then
      to = balance or 0
      if mode == 'carryover' then to = math.max(to, 0) end
      local boundaries = current - ordinal
      while boundaries > 0 and grant > 0 and to < MAX do
        local step = math.min(boundaries, math.floor(MAX / grant))
        to = math.min(MAX, to + step * grant)
        boundaries = boundaries - step
      end
      if mode == 'carryover' then to = math.min(to, tonumber(ARGV[first + 2])) end
    end
    if to ~= balance then write(to) end
  end
  save('ordinal', text(current), 'used', '0')
  ordinal, used = current, 0
  if mode == 'reset' then
    if away then
      parked = grant or 0
      save('parked', text(parked))
    elseif parked then
      parked = false
      forget('parked')
    end
    if held > 0 then
      redis.call('DEL', HOLDS, AMOUNTS)
      held = 0
      save('held', '0')
    end
  end
end

-- May a request pass? -------------------------------------------------------------------------------------------

if operation == 'check' then
  local need, id, default = tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[5])
  if unlimited then return { 'unlimited', schedule and schedule == their and ordinal } end
  if broken then return { 'malformed', broken } end

  if ours and grant and grant ~= default then
    if balance then write(clamp(balance + (default - grant))) end
    grant = default
    save('grant', text(grant))
  end
  if not balance then
    if not default then return { 'refused', false } end
    -- The default, but never more than what the consumer has left elsewhere: parked, or not spent in this period
    -- where the key was lost.
    local kept = nil
    if parked and not lazy then
      kept = parked
    elseif ledger and grant then
      kept = grant - used
    end
    write(kept and math.min(kept, default) or default)
    if not ledger then
      ledger = '1'
      save('layout', ledger, 'owner', ARGV[6], 'uid', '', 'term', '0', 'generation', '0', 'grant', text(default),
        'used', '0', 'lazy', '1')
      follow()
    elseif parked and not lazy then
      -- Listed again, it shall have what it had: its older spending is kept as a difference.
      local older = grant and clamp(parked - balance - (grant - default)) or 0
      save('owner', ARGV[6], 'lazy', '1', 'grant', text(default), 'parked', text(older))
      if schedule ~= their then follow() end
    end
  end

  local own = 0
  if held > 0 then
    -- Drop expired holds, some per call; holds that vanished from Redis do not count either.
    local left = held
    local ids = redis.call('ZRANGEBYSCORE', HOLDS, '-inf', redis.call('TIME')[1], 'LIMIT', 0, EXPIRED_PER_CALL)
    if #ids > 0 then
      for _, amount in ipairs(redis.call('HMGET', AMOUNTS, unpack(ids))) do
        left = left - (amount and tonumber(amount) or 0)
      end
      redis.call('ZREM', HOLDS, unpack(ids))
      redis.call('HDEL', AMOUNTS, unpack(ids))
    end
    if left < 0 or redis.call('EXISTS', HOLDS) == 0 then left = 0 end
    if left ~= held then
      held = left
      save('held', text(held))
    end
    if id ~= '' then own = tonumber(redis.call('HGET', AMOUNTS, id) or 0) or 0 end
  end
  local available = clamp(balance - (held - own))
  if available < need then return { 'refused', available } end
  if id ~= '' and ledger then
    redis.call('ZADD', HOLDS, text(redis.call('TIME')[1] + tonumber(ARGV[4])), id)
    redis.call('HSET', AMOUNTS, id, text(need))
    save('held', text(held - own + need))
  end
  -- Changes nothing, but fails where writes do: a Redis that is full, or a replica, could not book what it admits.
  redis.call('SETRANGE', BALANCE, 0, '')
  return { 'admitted', available, schedule and schedule == their and ordinal }
end

-- What did it use? ----------------------------------------------------------------------------------------------

if operation == 'charge' then
  local tokens, id, admitted_in = tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])
  if id ~= '' and held > 0 then
    local amount = redis.call('HGET', AMOUNTS, id)
    if amount then
      redis.call('ZREM', HOLDS, id)
      redis.call('HDEL', AMOUNTS, id)
      save('held', text(math.max(0, held - (tonumber(amount) or 0))))
    end
  end
  if mode == 'reset' and admitted_in and schedule == their and ordinal and admitted_in < ordinal then
    return { 'forgiven' }
  end
  if ledger and tokens > 0 then save('used', text(math.min(MAX, used + tokens))) end
  if unlimited then return { 'booked', false } end
  if broken then return { 'malformed', broken } end
  if balance then
    if balance - tokens < -MAX then
      write(-MAX)
    elseif tokens > 0 then
      redis.call('DECRBY', BALANCE, ARGV[2])
      balance = balance - tokens
    end
    return { 'booked', balance }
  end
  if parked and not lazy then save('parked', text(math.max(-MAX, parked - tokens))) end
  return ledger and { 'booked', false } or { 'absent' }
end

-- What an object declares. --------------------------------------------------------------------------------------

if operation == 'apply' then
  local to_owner, to_uid, to_generation, to_grant = ARGV[2], ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
  if broken then return { 'malformed', broken } end

  local to = balance
  if parked then to = clamp((balance or 0) + parked) end
  if to_grant then
    if to and grant then
      to = clamp(to + (to_grant - grant))
    elseif not to then
      -- Never granted, or the key was lost: then what was spent stays spent.
      to = grant and clamp(to_grant - used) or to_grant
    end
    -- A quota of 0 blocks, whatever was left or found; what an administrator adds afterwards stays.
    if to_grant == 0 and grant ~= 0 then to = math.min(to, 0) end
  end
  if to ~= balance then write(to) end
  if parked then forget('parked') end
  if to_grant then
    if to_grant ~= grant then save('grant', text(to_grant)) end
    if unlimited then forget('unlimited') end
  elseif not unlimited then
    save('unlimited', '1')
  end
  if schedule ~= their then follow() end
  if lazy then forget('lazy') end
  if not ledger then save('layout', '1', 'used', '0') end
  -- A newer term alone is not worth a write.
  if changed == 1 or owner ~= to_owner or uid ~= to_uid or generation ~= to_generation then
    save('owner', to_owner, 'uid', to_uid, 'term', ARGV[3], 'generation', ARGV[5])
  end
  return { 'applied', changed, balance, used }
end

-- What upstream's admin API asks. -------------------------------------------------------------------------------

if operation == 'set' then
  redis.call('SET', BALANCE, ARGV[2])
  if parked and not lazy then forget('parked') end
  return { 'balance', value }
end
if broken then return { 'malformed', broken } end
if operation == 'query' then return { 'balance', balance or 0 } end
local sum = (balance or 0) + value
if sum > MAX or sum < -MAX then return { 'range' } end
redis.call('INCRBY', BALANCE, ARGV[2])
return { 'balance', sum }
