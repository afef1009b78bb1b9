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
-- Amounts are integers within 2^53-1 of zero, which Lua's doubles hold exactly; sums saturate there.

local MAX = 9007199254740991
local EXPIRED_PER_CALL = 64
local BALANCE, LEDGER, HOLDS, AMOUNTS = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local operation = ARGV[1]

-- What is stored. -----------------------------------------------------------------------------------------------

-- The integer a text is, if Redis would count with it and a double holds it; otherwise nil.
local function int(text)
  if not (text == '0' or string.find(text, '^-?[1-9]%d*$')) then return nil end
  local n = tonumber(text)
  if n > MAX or n < -MAX then return nil end
  return n
end

-- The text of an integer; adding 0 turns a negative zero into zero.
local function text(n)
  return string.format('%.0f', n + 0)
end

local function clamp(n)
  return math.max(-MAX, math.min(MAX, n))
end

local FIELDS = {
  'layout', 'owner', 'uid', 'schedule', 'unlimited', 'lazy',
  'term', 'generation', 'grant', 'ordinal', 'used', 'held', 'parked',
}
local stored = redis.pcall('HMGET', LEDGER, unpack(FIELDS))
if stored.err then return { 'malformed', 'the ledger is not a hash' } end
local ledger = stored[1]
if ledger and ledger ~= '1' then return { 'layout', ledger } end
for i = 7, 13 do
  if stored[i] then
    local n = int(stored[i])
    if not n then return { 'malformed', 'ledger ' .. FIELDS[i] .. ' ' .. stored[i] } end
    stored[i] = n
  end
end
local owner, uid, schedule, unlimited, lazy = stored[2], stored[3], stored[4], stored[5] == '1', stored[6] == '1'
local term, generation, grant, ordinal = stored[7] or 0, stored[8] or 0, stored[9], stored[10]
local used, held, parked = stored[11] or 0, stored[12] or 0, stored[13]

-- The balance: an integer, false where there is none, and otherwise `broken` shows what stands there instead.
local balance, broken = redis.pcall('GET', BALANCE), nil
if type(balance) == 'table' then
  balance, broken = nil, 'not a string'
elseif balance then
  broken = balance
  balance = int(balance)
  if balance then broken = nil end
end

local changed = 0

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

-- The period: what the caller says, decided by Redis' clock. ----------------------------------------------------

local first = ({ check = 7, charge = 5, apply = 8, query = 2, set = 3, add = 3 })[operation]
if not first then return redis.error_reply('ERR aiquota: unknown operation') end
local their, mode, current = ARGV[first], ARGV[first + 1], nil
if their then
  local now = tonumber(redis.call('TIME')[1])
  current = tonumber(ARGV[first + 3]) - 1
  for i = first + 3, #ARGV, 2 do
    if tonumber(ARGV[i + 1]) > now then break end
    current = tonumber(ARGV[i])
  end
end

-- The grants of k periods on top of a base.
local function granted(base, k)
  while k > 0 and grant > 0 and base < MAX do
    local step = math.min(k, math.floor(MAX / grant))
    base = math.min(MAX, base + step * grant)
    k = k - step
  end
  return base
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

-- Gives what the boundaries that passed give. A parked amount gets no grants, but a Reset makes it the grant:
-- usage of an older period is forgiven to everybody.
local function roll()
  if not ledger or not their or schedule ~= their or not ordinal or current <= ordinal then return end
  -- What cannot be counted with keeps its period, so that it rolls when it is repaired; who sets it repairs it.
  if broken and not unlimited and operation ~= 'set' then return end
  local away = parked and not lazy and not balance and not broken
  if grant and not broken then
    local to = balance
    if mode == 'reset' then
      if not away then to = grant end
    elseif not away then
      to = balance or 0
      if mode == 'carryover' then
        to = math.min(granted(math.max(to, 0), current - ordinal), tonumber(ARGV[first + 2]))
      else
        to = granted(to, current - ordinal)
      end
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

-- Drops expired holds, some per call; holds that vanished from Redis do not count either.
local function expire()
  local ids = redis.call('ZRANGEBYSCORE', HOLDS, '-inf', redis.call('TIME')[1], 'LIMIT', 0, EXPIRED_PER_CALL)
  local left = held
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
end

-- The balance of a consumer that has none: the default, but never more than what it has left elsewhere: parked,
-- or not spent in this period where the key was lost.
local function create(default, default_owner)
  local kept = nil
  if parked and not lazy then
    kept = parked
  elseif ledger and grant then
    kept = grant - used
  end
  write(kept and math.min(kept, default) or default)
  if not ledger then
    ledger, grant = '1', default
    save('layout', ledger, 'owner', default_owner, 'uid', '', 'term', '0', 'generation', '0',
      'grant', text(default), 'used', '0', 'lazy', '1')
    follow()
  elseif parked and not lazy then
    -- Listed again, it shall have what it had: its older spending is kept as a difference.
    local older = grant and clamp(parked - balance - (grant - default)) or 0
    grant, lazy = default, true
    save('owner', default_owner, 'lazy', '1', 'grant', text(default), 'parked', text(older))
    if schedule ~= (their or false) then follow() end
  end
end

if operation == 'check' then
  local need, id, default = tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[5])
  local ours = lazy and default and owner == ARGV[6]
  -- No controller writes these ledgers: the policy that made them carries its edits to them.
  if ours and schedule ~= (their or false) then follow() end
  roll()
  local period = schedule and schedule == their and ordinal
  if unlimited then return { 'unlimited', period } end
  if broken then return { 'malformed', broken } end
  if ours and grant and grant ~= default then
    if balance then write(clamp(balance + (default - grant))) end
    grant = default
    save('grant', text(grant))
  end
  if not balance then
    if not default then return { 'refused', false } end
    create(default, ARGV[6])
    period = their and schedule == their and ordinal
  end
  if held > 0 then expire() end
  local own = 0
  if id ~= '' and held > 0 then own = tonumber(redis.call('HGET', AMOUNTS, id) or 0) or 0 end
  local available = clamp(balance - (held - own))
  if available < need then return { 'refused', available } end
  if id ~= '' and ledger then
    redis.call('ZADD', HOLDS, text(redis.call('TIME')[1] + tonumber(ARGV[4])), id)
    redis.call('HSET', AMOUNTS, id, text(need))
    save('held', text(held - own + need))
  end
  return { 'admitted', available, period or false }
end

-- What did it use? ----------------------------------------------------------------------------------------------

if operation == 'charge' then
  local tokens, id, admitted_in = tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])
  roll()
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
  local to_owner, to_term, to_uid, to_generation = ARGV[2], tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5])
  local to_grant, takeover = tonumber(ARGV[6]), ARGV[7] == '1'
  if ledger then
    -- The term first; the generation only under the same uid.
    if to_term < term then return { 'stale' } end
    if owner and owner ~= to_owner and not takeover then return { 'conflict', owner, lazy and 1 or 0 } end
    if to_term == term and owner == to_owner and uid == to_uid and to_generation < generation then
      return { 'stale' }
    end
    roll()
  end
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
  if schedule ~= (their or false) then follow() end
  if lazy then forget('lazy') end
  if not ledger then save('layout', '1', 'used', '0') end
  -- A newer term alone is not worth a write.
  if changed == 1 or owner ~= to_owner or uid ~= to_uid or generation ~= to_generation then
    save('owner', to_owner, 'uid', to_uid, 'term', text(to_term), 'generation', text(to_generation))
  end
  return { 'applied', changed, balance or false, used }
end

-- What upstream's admin API asks. -------------------------------------------------------------------------------

local value = operation ~= 'query' and int(ARGV[2])
if value == nil then return { 'range' } end
roll()
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
