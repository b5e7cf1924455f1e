-- Put in front of every script. Behind it come the parts that the script needs, and no others: a script makes each of its
-- functions and tables anew at every call, and fifteen of them cost as much as a command.
-- KEYS[1]: the namespace's prefix "{ns}:". ARGV[1]: the prefix of its channels "{ns}@<db>:". All keys of a namespace share
-- one hash tag, so what a script touches is on one shard.
--
-- The record, a hash at task:<id>:
--   n name  q queue  p priority  b body  sg signature  st state  a attempt  c crashes  k token  sk tokens that settled it
--   o owner  e stream entry  du due  l lease length asked for, lg granted  x expiry  er last error  re result
--   w waiting clients
--   u unique key  rv revoke asked for  gb g1 give-backs and the first one's time  at s1 f1 times of enqueue, start, end
--   tl timeline lines  pg progress  ds reason of death  tb tombstone of an id revoked before it came
-- Priority, attempt and token are 0 where they are missing, as most are when a task is new. A record without `at` was
-- enqueued when its stream entry was made, which names that time: what gives it another entry writes `at` first.
local P, C = KEYS[1], ARGV[1]

local function clock()
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end
local now = clock()
-- A number that goes into a command is printed as a float, which takes as long as a field does to be stored: what is
-- written often is made text once.
local function digits(number) return string.format('%d', number) end
local NOW = digits(now)

-- Fields of a record may be missing (false) or spoilt, and one spoilt record must not stop a whole queue: so what reads
-- them here raises for nothing.

-- A whole number; 0 for what is missing, no number, or none that fits (also "nan" and "inf", which Lua reads).
local function num(value)
  local n = tonumber(value or '')
  return n and n > -9e15 and n < 9e15 and math.floor(n) or 0
end
-- A priority; 0 for what is none.
local function rank(value)
  local n = num(value)
  return n >= 0 and n <= 9 and n or 0
end
local function task_key(id) return P .. 'task:' .. id end
-- Both may contain colons: the length says where the name of the task ends.
local function unique_key(task, unique) return P .. 'unique:' .. #(task or '') .. ':' .. (task or '') .. ':' .. unique end
local function queue_key(queue, part) return P .. 'q:' .. (queue or '') .. ':' .. part end
local streams = {}
local function stream_key(queue, priority)
  queue, priority = queue or '', priority or 0
  local of = streams[queue]
  if not of then
    of = {}
    streams[queue] = of
  end
  local key = of[priority]
  if not key then
    key = P .. 'q:' .. queue .. ':p' .. rank(priority)
    of[priority] = key
  end
  return key
end

local FINAL = { succeeded = true, failed = true, revoked = true, expired = true }

-- unpack() is limited by Lua's C stack; ids travel to variadic commands in chunks well below it.
local function in_chunks(items, size, call)
  for first = 1, #items, size do
    call(unpack(items, first, math.min(first + size - 1, #items)))
  end
end
