"""The Lua scripts of `powauth.backends.redis`, and the layout of the values that they store."""

import hashlib
import struct

from powauth.backends.base import Millis

RETRY_WINDOW: Millis = 60_000
"""The life of a tombstone: longer than a client repeats one command."""

CHUNK = 500
"""The number of one user's sessions that one command handles, or a few more: about two milliseconds of the server."""

SWEEP = 64
"""The most expired members that one command drops from an index, so that no command is slow after a long absence."""

# A record: magic, mark of its creation, mark of its last write, version, created_at, expires_at, length of the user's
# key; then the user's key and the value. A tombstone: magic, the two marks, and the mark of its deletion.
RECORD = b"P1"
MARKS = 18
HEADER = struct.Struct(">qqqH")
BODY = MARKS + HEADER.size

_PRELUDE = f"""
local function read(key, now)
  local v = redis.pcall('GET', key)
  if type(v) ~= 'string' then return nil end
  local kind = string.sub(v, 1, 2)
  local r = {{created = string.sub(v, 3, 10), written = string.sub(v, 11, 18)}}
  if kind == 'D1' and #v == 26 then
    r.deleted = string.sub(v, 19, 26)
  elseif kind == 'P1' and #v >= {BODY} then
    local high, low, size = struct.unpack('>i4I4I2', string.sub(v, 35, {BODY}))
    r.live = high * 4294967296 + low > now
    r.present = true
    r.version = string.sub(v, 19, 26)
    r.user = string.sub(v, {BODY + 1}, {BODY} + size)
  elseif kind ~= 'P1' and string.find(kind, '^P%d$') then
    r.created, r.written, r.newer = '', '', true
  else
    return nil
  end
  return r
end

local function sweep(index, records, now)
  local ids = redis.pcall('ZRANGEBYSCORE', index, '-inf', now, 'LIMIT', 0, {SWEEP})
  if ids.err then
    redis.call('UNLINK', index)
  elseif #ids > 0 then
    local keys = {{}}
    for i, id in ipairs(ids) do keys[i] = records .. id end
    -- A cluster refuses this while it moves the slot. A later sweep then removes the records.
    if type(redis.pcall('UNLINK', unpack(keys))) == 'number' then redis.call('ZREM', index, unpack(ids)) end
  end
end

local function write(key, index, records, id, value, expires, ttl, now)
  sweep(index, records, now)
  redis.call('SET', key, value, 'PX', ttl)
  redis.call('ZADD', index, expires, id)
  if redis.call('PTTL', index) < tonumber(ttl) then redis.call('PEXPIRE', index, ttl) end
end

local function epoch(key)
  local v = redis.pcall('GET', key)
  if type(v) == 'string' and #v <= 16 and string.find(v, '^[1-9]%d*$') then return v end
  return '0'
end

local function advance(key, random, lifetime)
  local before, step = tonumber(epoch(key)), tonumber(random)
  if before > 0 and before < 9000000000000000 then step = before + 1 + step % 2147483648 end
  local after = string.format('%.0f', step)
  redis.call('SET', key, after, 'PX', lifetime)
  return after
end
"""


class Script:
    """A Lua script and the digest that names it in the server's script cache."""

    def __init__(self, body: str) -> None:
        self.source = (_PRELUDE + body).encode()
        # The digest is a name that the protocol fixes, not a defence.
        self.sha = hashlib.sha1(self.source, usedforsecurity=False).hexdigest().encode()


# KEYS: record, index, epoch. ARGV: mark, packed, ttl, expires_at, now, identifier, key of a record without its
# identifier, epoch or empty.
CREATE = Script("""
local old = read(KEYS[1], tonumber(ARGV[5]))
if old then
  if old.created == ARGV[1] then return 1 end
  if old.live or old.newer then return 0 end
end
if ARGV[8] ~= '' and epoch(KEYS[3]) ~= ARGV[8] then return 0 end
write(KEYS[1], KEYS[2], ARGV[7], ARGV[6], 'P1' .. ARGV[1] .. ARGV[1] .. ARGV[2], ARGV[4], ARGV[3], ARGV[5])
return 1
""")

# KEYS: record, index. ARGV: as for CREATE, with the expected version, packed, in place of the epoch.
UPDATE = Script("""
local old = read(KEYS[1], tonumber(ARGV[5]))
if not old then return 0 end
if old.written == ARGV[1] then return 1 end
if not old.live or old.version ~= ARGV[8] then return 0 end
write(KEYS[1], KEYS[2], ARGV[7], ARGV[6], 'P1' .. old.created .. ARGV[1] .. ARGV[2], ARGV[4], ARGV[3], ARGV[5])
return 1
""")

# KEYS: record. ARGV: mark, now, identifier, key of an index without its user, lifetime of a tombstone.
# The record holds the user's key, which names the index. ZREM is the first write: a server short of memory refuses SET
# as a script's first write. If the slot is moving and the index is not here, the member stays in the index. The record
# must then be gone, so no tombstone is left.
DELETE = Script("""
local old = read(KEYS[1], tonumber(ARGV[2]))
if not old then return 0 end
if old.deleted == ARGV[1] then return 1 end
if not old.present then return 0 end
local listed = redis.pcall('ZREM', ARGV[4] .. old.user, ARGV[3]) == 1
if old.live and listed then
  redis.call('SET', KEYS[1], 'D1' .. old.created .. old.written .. ARGV[1], 'PX', ARGV[5])
else
  redis.call('UNLINK', KEYS[1])
end
return old.live and 1 or 0
""")

# KEYS: index. ARGV: now, key of a record without its identifier, chunk, position (0 at first).
# Returns the next position (0 at the end), identifiers, and their values. If one chunk holds all, the reply is a
# snapshot. Otherwise ZSCAN walks the index. It returns each member that is present during the whole walk at least once.
LIST = Script("""
sweep(KEYS[1], ARGV[2], ARGV[1])
local now, chunk, position = tonumber(ARGV[1]), tonumber(ARGV[3]), '0'
local ids, keys = {}, {}
if ARGV[4] == '0' and redis.call('ZCARD', KEYS[1]) <= chunk then
  ids = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. ARGV[1], '+inf')
else
  local step = redis.call('ZSCAN', KEYS[1], ARGV[4], 'COUNT', chunk)
  position = step[1]
  for i = 1, #step[2], 2 do
    if tonumber(step[2][i + 1]) > now then ids[#ids + 1] = step[2][i] end
  end
end
for i, id in ipairs(ids) do keys[i] = ARGV[2] .. id end
-- MGET reads the index, too, although it holds no value. While a cluster moves the slot, it refuses a command of
-- several keys if one is missing. For a single key it would answer that the key does not exist.
local values = redis.call('MGET', KEYS[1], unpack(keys))
table.remove(values, 1)
return {position, ids, values}
""")

# KEYS: index, epoch. ARGV: now, key of a record without its identifier, chunk, identifier to keep or empty, random
# number (empty if the epoch has advanced already), lifetime of an epoch. Returns the number of live records removed,
# and whether more remain. The epoch advances last, for the reason given at DELETE.
DELETE_OWNER = Script("""
local now, chunk = tonumber(ARGV[1]), tonumber(ARGV[3])
local found = redis.pcall('ZRANGE', KEYS[1], 0, chunk, 'WITHSCORES')
if found.err then
  redis.call('UNLINK', KEYS[1])
  found = {}
end
local ids, live, dead, all = {}, {}, {}, {KEYS[1]}
for i = 1, #found, 2 do
  if found[i] ~= ARGV[4] and #ids < chunk then
    ids[#ids + 1] = found[i]
    local to = tonumber(found[i + 1]) > now and live or dead
    to[#to + 1] = ARGV[2] .. found[i]
    all[#all + 1] = ARGV[2] .. found[i]
  end
end
-- While a cluster moves some of the keys, this fails before the script removes anything from the index. Otherwise the
-- index would lose records that still exist.
redis.call('EXISTS', unpack(all))
local went = 0
if #dead > 0 then redis.call('UNLINK', unpack(dead)) end
if #live > 0 then went = redis.call('UNLINK', unpack(live)) end
if #ids > 0 then redis.call('ZREM', KEYS[1], unpack(ids)) end
if ARGV[5] ~= '' then advance(KEYS[2], ARGV[5], ARGV[6]) end
return {went, #found > 2 * chunk and 1 or 0}
""")

# KEYS: epoch. ARGV: random number, lifetime of an epoch.
ADVANCE = Script("""
return advance(KEYS[1], ARGV[1], ARGV[2])
""")
