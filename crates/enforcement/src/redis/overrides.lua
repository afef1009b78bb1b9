-- The Lua library of overrides: limits that single values have, as one set that a rule's requests look them up in.
--
-- KEYS[1], a hash: owner, term, uid, generation (who wrote it last and when in the order of writes), digest (of all that
-- is said), and for each value, by the SHA-1 of rule name and value, its limit as '<tokens>/<seconds>'.
--
-- ARGV:
--   set   owner, term, uid, generation, digest, then field and limit of each value   -> {'set', 1 if anything changed}
--   drop  owner, term                                      -> {'dropped', 1} or {'absent'}, if nothing is stored
--   -> {'foreign', owner} where another cluster's object wrote it, and to drop also where another object of this one did
--   -> {'stale', term} where a newer controller, or a newer generation of the same object, was here; nothing changed.
--
-- All or nothing: a request sees the set as it was or as it is. What is said already, and is whole, is not written
-- again.

local key, operation, owner, term = KEYS[1], ARGV[1], ARGV[2], ARGV[3]

-- Whatever else stands there is nobody's.
local kept = redis.call('TYPE', key)['ok'] == 'hash'
local known = kept and redis.call('HMGET', key, 'owner', 'term', 'uid', 'generation', 'digest') or {}
local last = { owner = known[1], term = tonumber(known[2] or 0), uid = known[3], generation = tonumber(known[4] or 0),
  digest = known[5] }

local function cluster(of)
  return string.match(of, '^[^/]*')
end

if last.owner and cluster(last.owner) ~= cluster(owner) then return { 'foreign', last.owner } end
if last.owner and last.term > tonumber(term) then return { 'stale', last.term } end

if operation == 'drop' then
  if not kept then return { 'absent' } end
  if last.owner and last.owner ~= owner then return { 'foreign', last.owner } end
  redis.call('DEL', key)
  return { 'dropped', 1 }
elseif operation ~= 'set' then
  return redis.error_reply('ERR aiquota: unknown operation')
end

local uid, generation, digest = ARGV[4], ARGV[5], ARGV[6]
local same = last.owner == owner and last.uid == uid
if same and last.term == tonumber(term) and last.generation > tonumber(generation) then return { 'stale', last.term } end
-- Somebody may have taken some of it away.
local whole = last.digest == digest and redis.call('HLEN', key) == 5 + (#ARGV - 6) / 2
if same and whole then return { 'set', 0 } end
if not whole then
  redis.call('DEL', key)
  -- Lua passes some thousands of arguments at most.
  for first = 7, #ARGV, 1000 do
    redis.call('HSET', key, unpack(ARGV, first, math.min(first + 999, #ARGV)))
  end
end
redis.call('HSET', key, 'owner', owner, 'term', term, 'uid', uid, 'generation', generation, 'digest', digest)
return { 'set', 1 }
