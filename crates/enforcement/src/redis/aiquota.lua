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
--   owner       object the balance belongs to; absent: released, anybody's
--   uid, term, generation   fence of the last controller write: see below
--   grant       tokens a period gives; absent for a consumer that was always unlimited
--   unlimited   "1": passes without limit, usage is still counted
--   schedule, ordinal       the schedule it follows and the period it is in; absent without refresh
--   used        tokens spent in this period
--   observed    tokens that requests used under a policy that only observes: they count against nothing but what it
--               would refuse, and not at all once it enforces
--   held        sum of amounts
--   refreshed   token of the last manual refresh that was honoured, or that was there before the ledger
--   earlier     up to four tokens before that, the last first, each as 12 digits of its SHA-1 with a blank between
--   parked      what listing the consumer again adds to its balance. It is not listed any more: its tokens were
--               moved here and its balance deleted, so that it is refused (a balance there is now is an
--               administrator's gift); or, with lazy, it lives on a default meanwhile and this is a difference
--   lazy        "1": a request made the balance from its policy's default, no object lists the consumer
-- A ledger that is not lazy is away (no object lists the consumer) if it has parked, or neither grant nor unlimited.
--
-- ARGV, with "" for what is absent:
--   check   need, hold id, hold seconds, default grant, owner of what is made from it, yields 0 or 1, PERIOD
--           -> unlimited, ordinal | admitted, available, ordinal, grant | refused, available, grant | malformed, value
--   charge  tokens, hold id, ordinal at admission, PERIOD
--           -> booked, balance, used, grant (nothing after the balance where nothing is counted of a grant) | forgiven
--            | absent | malformed, value
--   renew   hold id, hold seconds   -> renewed, 0 or 1: a hold that is gone is not made again
--   observe, note   as check and charge, under a policy that only observes: a note changes neither balance nor used, but
--           observed, which an observe takes off what is available; it is booked with what would be used
--   apply   owner, term, uid, generation, grant or "unlimited", takeover 0 or 1, refresh token, PERIOD
--           -> applied, changed 0 or 1, balance, used | conflict, owner, lazy 0 or 1 | stale, term
--            | malformed, value. A ledger that keeps another token is refreshed as by one boundary (a Reset without
--           PERIOD), if this very object (owner and uid) listed the consumer already; any other only keeps the token.
--           A token among the earlier ones changes nothing: an annotation raises no generation, so that only this tells
--           a watch that lags, or a call that was long on its way, from a new wish.
--           No period begins by that: holds stay, and requests in flight are charged to what they find.
--   park    owner, term, uid, generation, PERIOD   the object lists the consumer no longer
--           -> parked, changed 0 or 1 | absent | foreign, owner | stale, term | malformed, value
--   release owner, term                            the object is gone: its balance is obeyed, anybody may have it
--           -> released, changed 0 or 1 | absent | foreign, owner | stale, term
--   delete  owner, term, uid, generation           all keys, whatever the balance is
--           -> deleted, 1 | absent | foreign, owner | stale, term
--   query   PERIOD         -> balance, tokens | malformed, value
--   set     value, PERIOD  -> balance, tokens | range
--   add     value, PERIOD  -> balance, tokens | range | malformed, value
--   PERIOD is nothing, or: schedule, mode (reset | add | carryover), cap, then 1 to n of: ordinal, unix second.
--   Any of them -> layout, version | malformed, what stands where the ledger should be.
--
-- Fence of apply, park, release and delete: a lower term than the ledger's changes nothing, nor does, under the same
-- term and uid of its owner, a lower generation. Each may be repeated: what would change nothing writes nothing, and
-- stores a newer generation or another uid, but no newer term alone. Without a ledger nothing is anybody's (absent);
-- park, release and delete leave another owner's alone (foreign, "" where it was released).
--
-- Amounts are integers within 2^53-1 of zero, which Lua's doubles hold exactly; sums saturate there. The script is
-- compiled once but its functions are made anew in every call: few of them, and what is rare stands where it is used.

local MAX = 9007199254740991
local EXPIRED_PER_CALL = 64
local BALANCE, LEDGER, HOLDS, AMOUNTS = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local operation, observes = ARGV[1], false
if operation == 'observe' then operation, observes = 'check', true
elseif operation == 'note' then operation, observes = 'charge', true
elseif operation == 'renew' then
  local to = string.format('%.0f', redis.call('TIME')[1] + tonumber(ARGV[3]))
  return { 'renewed', redis.call('ZADD', HOLDS, 'XX', 'CH', to, ARGV[2]) }
end

-- What is stored. -----------------------------------------------------------------------------------------------

local stored = redis.pcall('HMGET', LEDGER, 'layout', 'owner', 'uid', 'schedule', 'unlimited', 'lazy',
  'term', 'generation', 'grant', 'ordinal', 'used', 'held', 'parked', 'observed')
if stored.err then return { 'malformed', 'the ledger is not a hash' } end
local ledger = stored[1]
if ledger and ledger ~= '1' then return { 'layout', ledger } end
for i = 7, 14 do
  if stored[i] then
    local n = tonumber(stored[i])
    if not n or n % 1 ~= 0 or n > MAX or n < -MAX then
      local names = { 'term', 'generation', 'grant', 'ordinal', 'used', 'held', 'parked', 'observed' }
      return { 'malformed', 'ledger ' .. names[i - 6] .. ' ' .. stored[i] }
    end
    stored[i] = n
  end
end
local owner, uid, schedule, unlimited, lazy = stored[2], stored[3], stored[4], stored[5] == '1', stored[6] == '1'
local term, generation, grant, ordinal = stored[7] or 0, stored[8] or 0, stored[9], stored[10]
local used, held, parked, observed = stored[11] or 0, stored[12] or 0, stored[13], stored[14] or 0

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

local first, fenced = nil, false
if operation == 'check' then first = 8
elseif operation == 'charge' then first = 5
elseif operation == 'query' then first = 2
elseif operation == 'set' or operation == 'add' then first = 3
elseif operation == 'apply' then first, fenced = 9, true
elseif operation == 'park' or operation == 'delete' then first, fenced = 6, true
elseif operation == 'release' then first, fenced = 4, true
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

local ours, value, token, refreshed, refresh = false, nil, nil, false, false
local away = ledger and not lazy and (parked or not (grant or unlimited))
if operation == 'check' then
  -- No controller writes these ledgers: the policy that made them carries its edits to them, or who comes first, and of
  -- all that have the prefix the one that yields to none takes them from the others, which may not be there any more.
  -- What is another cluster's stays with that.
  ours = lazy and (not owner or owner == ARGV[6]
    or ARGV[7] == '0' and string.match(owner, '^[^/]*') == string.match(ARGV[6], '^[^/]*'))
  if ours and owner ~= ARGV[6] then save('owner', ARGV[6]) end
  if ours and schedule ~= their then follow() end
  if stored[14] and not observes then
    forget('observed')
    observed = 0
  end
elseif fenced then
  local same = owner == ARGV[2] and uid == ARGV[4]
  if ledger then
    local to_term = tonumber(ARGV[3])
    if to_term < term then return { 'stale', term } end
    if owner ~= ARGV[2] then
      if operation == 'apply' then
        if owner and ARGV[7] ~= '1' then return { 'conflict', owner, lazy and 1 or 0 } end
      elseif owner or operation ~= 'release' then
        return { 'foreign', owner or '' }
      end
    elseif same and to_term == term and tonumber(ARGV[5]) < generation then
      return { 'stale', term }
    end
  elseif operation ~= 'apply' then
    return { 'absent' }
  end
  if operation == 'delete' then
    redis.call('DEL', BALANCE, LEDGER, HOLDS, AMOUNTS)
    return { 'deleted', 1 }
  elseif operation == 'release' then
    if owner then
      forget('owner')
      save('term', ARGV[3])
    end
    return { 'released', changed }
  end
  if broken then return { 'malformed', broken } end
  token = operation == 'apply' and ARGV[8]
  if token and ledger and (token ~= '' or not same) then
    local kept = redis.call('HMGET', LEDGER, 'refreshed', 'earlier')
    local earlier = kept[2]
    refreshed = kept[1]
    if not same then
      -- The tokens of another object say nothing about this one's.
      if refreshed and token == '' then forget('refreshed') end
      if earlier then forget('earlier') end
    elseif token ~= refreshed then
      if earlier and string.find(earlier, string.sub(redis.sha1hex(token), 1, 12), 1, true) then
        token = ''
      else
        refresh = not lazy and not away
        if refreshed then
          local last = string.sub(redis.sha1hex(refreshed), 1, 12)
          save('earlier', earlier and last .. ' ' .. string.sub(earlier, 1, 38) or last)
        end
      end
    end
  end
elseif operation == 'set' or operation == 'add' then
  value = int(ARGV[2])
  if not value then return { 'range' } end
end

-- Roll: gives what the boundaries that passed give, and a manual refresh what one gives. Who is away gets no grants,
-- but a Reset makes what it is to have the grant: usage of an older period is forgiven to everybody. What cannot be
-- counted with keeps its period, so that it rolls when it is repaired; who sets it repairs it. Boundaries that all
-- lie ahead of Redis' clock roll nothing: the caller's clock is wrong, and what lies before them is not known. -----

local passed = ledger and reached and schedule == their and ordinal and current > ordinal
  and (not broken or unlimited or operation == 'set')
if passed or refresh then
  mode = mode or 'reset'
  local noted = mode ~= 'reset' and observed or 0
  if grant and not broken and not away then
    local to = grant
    if mode ~= 'reset' then
      to = balance or 0
      if mode == 'carryover' then to = math.max(to, 0) end
      local start = to
      local boundaries = (passed and current - ordinal or 0) + (refresh and 1 or 0)
      while boundaries > 0 and grant > 0 and to < MAX do
        local step = math.min(boundaries, math.floor(MAX / grant))
        to = math.min(MAX, to + step * grant)
        boundaries = boundaries - step
      end
      if mode == 'carryover' then
        -- What would be left without what was only observed carries over in the same way.
        local cap = tonumber(ARGV[first + 2])
        local less = math.max((balance or 0) - observed, 0) + (to - start)
        to = math.min(to, cap)
        noted = to - math.min(less, cap)
      end
    end
    if to ~= balance then write(to) end
  end
  if noted ~= observed then
    save('observed', text(noted))
    observed = noted
  end
  save('used', '0')
  used = 0
  if passed then
    save('ordinal', text(current))
    ordinal = current
  end
  if mode == 'reset' then
    if away and grant then
      parked = clamp(grant - (balance or 0))
      save('parked', text(parked))
    elseif parked then
      parked = false
      forget('parked')
    end
    if passed and held > 0 then
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

  if ours and grant and not default then
    -- The default was withdrawn: parked as under a grant of which the same is left, so that it is worth the same when
    -- it is listed again, and what it had is what counts where there is a default once more.
    save('parked', text(balance or clamp(grant - used)), 'grant', text(clamp(grant - (parked or 0))))
    forget('lazy')
    redis.call('DEL', BALANCE)
    return { 'refused', false }
  end
  if ours and grant and grant ~= default then
    if balance then write(clamp(balance + (default - grant))) end
    grant = default
    save('grant', text(grant))
  end
  if not balance and not default then return { 'refused', false } end
  if not balance or away and default then
    local given = 0
    if not balance then
      -- The default, but never more than what the consumer has left elsewhere: parked, or not spent in this period
      -- where the key was lost.
      local kept = parked
      if lazy or not kept then kept = grant and grant - used end
      given = kept and math.min(kept, default) or default
      write(given)
    end
    if not ledger then
      ledger = '1'
      save('layout', ledger, 'owner', ARGV[6], 'uid', '', 'term', '0', 'generation', '0', 'grant', text(default),
        'used', '0', 'lazy', '1')
      follow()
    elseif away then
      -- Listed again, it shall have what it had: its older spending is kept as a difference.
      local older = grant and clamp(parked - given - (grant - default)) or 0
      save('owner', ARGV[6], 'lazy', '1', 'grant', text(default), 'parked', text(older))
      if schedule ~= their then follow() end
    end
    if lazy or away or not grant then grant = default end
  end

  local own = 0
  if held > 0 then
    -- Drop expired holds, some per call; holds that vanished from Redis do not count either.
    local left = held
    local ids = redis.call('ZRANGEBYSCORE', HOLDS, '-inf', redis.call('TIME')[1], 'LIMIT', 0, EXPIRED_PER_CALL)
    if #ids > 0 then
      for _, amount in ipairs(redis.call('HMGET', AMOUNTS, unpack(ids))) do
        left = left - (amount and int(amount) or 0)
      end
      redis.call('ZREM', HOLDS, unpack(ids))
      redis.call('HDEL', AMOUNTS, unpack(ids))
    end
    if left < 0 or redis.call('EXISTS', HOLDS) == 0 then left = 0 end
    if left ~= held then
      held = left
      save('held', text(held))
    end
    if id ~= '' then own = int(redis.call('HGET', AMOUNTS, id) or '0') or 0 end
  end
  local available = clamp(balance - observed - (held - own))
  if available < need then return { 'refused', available, grant } end
  if id ~= '' and ledger then
    -- In this order: an amount counts nowhere if something else stands where holds should, and the next line fails.
    redis.call('HSET', AMOUNTS, id, text(need))
    redis.call('ZADD', HOLDS, text(redis.call('TIME')[1] + tonumber(ARGV[4])), id)
    save('held', text(held - own + need))
  end
  -- Changes nothing, but fails where writes do: a Redis that is full, or a replica, could not book what it admits.
  redis.call('SETRANGE', BALANCE, 0, '')
  return { 'admitted', available, schedule and schedule == their and ordinal, grant }
end

-- What did it use? ----------------------------------------------------------------------------------------------

if operation == 'charge' then
  local tokens, id, admitted_in = tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])
  if id ~= '' and held > 0 then
    local amount = redis.call('HGET', AMOUNTS, id)
    if amount then
      redis.call('ZREM', HOLDS, id)
      redis.call('HDEL', AMOUNTS, id)
      save('held', text(math.max(0, held - (int(amount) or 0))))
    end
  end
  if mode == 'reset' and admitted_in and schedule == their and ordinal and admitted_in < ordinal then
    return { 'forgiven' }
  end
  if observes then
    if not ledger then return { 'absent' } end
    observed = math.min(MAX, observed + tokens)
    save('observed', text(observed))
    return { 'booked', false, math.min(MAX, used + observed), not unlimited and grant }
  end
  if ledger and tokens > 0 then
    used = math.min(MAX, used + tokens)
    save('used', text(used))
  end
  if unlimited then return { 'booked', false } end
  if broken then return { 'malformed', broken } end
  if balance then
    if balance - tokens < -MAX then
      write(-MAX)
    elseif tokens > 0 then
      redis.call('DECRBY', BALANCE, ARGV[2])
      balance = balance - tokens
    end
    return { 'booked', balance, used, grant }
  end
  if away and parked then save('parked', text(math.max(-MAX, parked - tokens))) end
  return ledger and { 'booked', false } or { 'absent' }
end

-- What an object declares, or declares no longer. ----------------------------------------------------------------

if fenced then
  if operation == 'park' then
    if not lazy and not away then
      -- Where the key was lost, what was spent stays spent.
      local kept = balance
      if not kept and grant then kept = clamp(grant - used) end
      if kept then save('parked', text(kept)) end
      if unlimited then forget('unlimited') end
      redis.call('DEL', BALANCE)
    end
  else
    local to_grant = tonumber(ARGV[6])
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
    if token ~= '' and token ~= refreshed then save('refreshed', token) end
  end
  -- A newer term alone is not worth a write.
  if changed == 1 or owner ~= ARGV[2] or uid ~= ARGV[4] or generation ~= tonumber(ARGV[5]) then
    save('owner', ARGV[2], 'uid', ARGV[4], 'term', ARGV[3], 'generation', ARGV[5])
  end
  if operation == 'park' then return { 'parked', changed } end
  return { 'applied', changed, balance, used }
end

-- What upstream's admin API asks. -------------------------------------------------------------------------------

if operation == 'set' then
  redis.call('SET', BALANCE, ARGV[2])
  if away and parked then save('parked', '0') end
  if stored[14] then forget('observed') end
  return { 'balance', value }
end
if broken then return { 'malformed', broken } end
if operation == 'query' then return { 'balance', balance or 0 } end
local sum = (balance or 0) + value
if sum > MAX or sum < -MAX then return { 'range' } end
redis.call('INCRBY', BALANCE, ARGV[2])
return { 'balance', sum }
