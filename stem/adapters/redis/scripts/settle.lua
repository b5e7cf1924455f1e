-- Part of exchange.lua. Ends deliveries. Per entry five: id, token, outcome, result, ttl; and five more for any outcome
-- but `succeeded`: error, error type, reason, delay, unknown. Answers per entry 1 applied, 2 already (this very token
-- settled it before), 0 lost, 3 applied, and the crash was the one too many: it is poison now, 4 applied, and it was revoked
-- while it ran: it does not run again.
-- Only the owner with the current token may settle, and only while the record says running: a worker that lost its
-- lease changes nothing, whatever it sends and however late.
--
-- `sk` holds the last four tokens that settled it, newest first: a worker whose answer got lost may repeat itself after
-- others have started and settled the task, and is not to be told that its own end was refused.
local function settled_by(before, token)
  local tokens, n = token, 1
  for one in (before or ''):gmatch('%d+') do
    if n == 4 then break end
    tokens, n = tokens .. ',' .. one, n + 1
  end
  return tokens
end

-- An outcome of another name (changed on its way) ends nothing: as a state, nobody would look for it, and the record
-- would go with its time to live. The lease brings the task back.
local OUTCOMES = {
  succeeded = true, dead = true, retry = true, give_back = true, crashed = true, revoked = true, expired = true,
}
local AGAIN = { retry = true, give_back = true, crashed = true }
local REVOCABLE = { retry = true, give_back = true, crashed = true, dead = true }

local NONE = {}

-- Returns where each of `n` entries begins, and where they end.
local function entries_from(first, n)
  local places, i = {}, first
  for index = 1, n do
    places[index] = i
    i = i + (ARGV[i + 2] == 'succeeded' and 5 or 10)
  end
  return places, i
end

local function settle(worker, places, dead_cap, dead_keep, max_crashes)
  local answers, acks, leases, bells = {}, {}, {}, {}
  for _, i in ipairs(places) do
    local id, token, outcome = ARGV[i], ARGV[i + 1], ARGV[i + 2]
    local error, error_type, reason, delay = '', '', '', 0
    if outcome ~= 'succeeded' then
      error, error_type, reason, delay = ARGV[i + 5], ARGV[i + 6], ARGV[i + 7], num(ARGV[i + 8])
    end
    -- No number may stop the batch half way, or make a result vanish at once.
    local ttl = length_of(ARGV[i + 4], 86400000)
    local key = task_key(id)
    local r = redis.pcall('HMGET', key, 'k', 'o', 'st', 'sk', 'q', 'p', 'e', 'n', 'u', 'w', 'a', 'at', 's1')
    local answer = 0
    if OUTCOMES[outcome] and not r.err and r[1] == token and r[2] == worker and r[3] == 'running' then
      answer = 1
      local queue, priority, entry, task, attempt = queue_of(r[5]) or 'default', r[6], r[7] or '', r[8] or '', num(r[11])
      local tokens = r[4] and settled_by(r[4], token) or token
      -- What only an end that is no success asks for.
      local more = outcome == 'succeeded' and NONE or redis.call('HMGET', key, 'c', 'rv', 'gb')
      local crashes = num(more[1])
      if more[2] and REVOCABLE[outcome] then
        -- Revoked while it ran: it never starts again, also not from the dead letters.
        outcome, reason, answer = 'revoked', more[2], 4
      elseif outcome == 'revoked' and reason == '' then
        reason = more[2] or ''  -- its worker knows that it was revoked, not why
      end
      if outcome == 'crashed' then
        crashes = crashes + 1
        count(queue, task, 'crashed')
        if crashes >= max_crashes then outcome, reason, answer = 'dead', 'poison', 3 end
      end
      local again = AGAIN[outcome]

      -- Its new place comes first: where that is refused (a spoilt key), nothing of this end is written, so that its
      -- repetition counts no attempt or crash a second time.
      local state, place = 'scheduled', 'delayed'
      if outcome == 'retry' then state, place = 'retrying', 'retry' end
      local set, stands = queue_key(queue, place), ''
      if outcome == 'dead' then
        redis.call('ZADD', queue_key(queue, 'dead'), now, id)
      elseif again and delay > 0 then
        redis.call('ZADD', set, now + delay, id)
      elseif again then
        stands = make_ready(id, queue, priority)
      end
      if crashes > num(more[1]) then redis.call('HSET', key, 'c', crashes) end
      if error ~= '' then redis.call('HSET', key, 'er', error) end

      if again then
        keep_time(key, r[12], entry)
        local ran = line(num(r[13]), 'started', worker, attempt)
        if outcome == 'retry' then
          redis.call('HSET', key, 'a', attempt + 1)
          add_timeline(key, ran .. line(now, 'retried', worker, attempt + 1, error_type))
          count(queue, task, 'retried')
        else
          add_timeline(key, ran .. line(now, outcome == 'crashed' and 'crashed' or 'handed_back', worker, attempt, reason))
          if outcome == 'give_back' then
            count(queue, task, 'handed_back')
          end
        end
        if outcome == 'give_back' and ARGV[i + 9] == '1' then
          redis.call('HSET', key, 'gb', num(more[3]) + 1)
          redis.call('HSETNX', key, 'g1', now)
        elseif more[3] then
          redis.call('HDEL', key, 'gb', 'g1')  -- somebody knew it: it has not been unknown since then
        end
        if delay > 0 then
          redis.call('HSET', key, 'st', state, 'du', now + delay, 'e', '', 'sk', tokens, 'o', '')
          if redis.call('ZRANGE', set, 0, 0)[1] == id then bells[queue] = true end
        else
          redis.call('HSET', key, 'st', 'queued', 'e', stands, 'sk', tokens, 'o', '')
          bells[queue] = true
        end
      else
        state = outcome == 'dead' and 'failed' or outcome
        if outcome == 'succeeded' then
          redis.call('HSET', key, 'st', state, 'f1', NOW, 'sk', tokens, 're', ARGV[i + 3])
        else
          redis.call('HSET', key, 'st', state, 'f1', now, 'sk', tokens, 'ds', reason)
        end
        if outcome == 'dead' then bury(queue, id, dead_cap, dead_keep) else redis.call('PEXPIRE', key, ttl) end
        release_unique(task, r[9], id)
        tell_waiters(r[10], id)
        count(queue, task, state)
        add_history(id, state, task, queue, worker, r[11], enqueued(r[12], entry), r[13], error_type)
      end
      local stream = stream_key(queue, priority)
      local entries, ids = acks[stream], leases[queue]
      if not entries then
        entries = {}
        acks[stream] = entries
      end
      if not ids then
        ids = {}
        leases[queue] = ids
      end
      entries[#entries + 1] = entry
      ids[#ids + 1] = id
    elseif not r.err and r[4] and (',' .. r[4] .. ','):find(',' .. token .. ',', 1, true) then
      answer = 2
      -- Nobody but this worker can tell of it, and the answer that said so got lost.
      if r[1] == token and REVOCABLE[outcome] then
        local more = redis.call('HMGET', key, 'rv', 'ds')
        if r[3] == 'revoked' and more[1] then answer = 4 end
        if r[3] == 'failed' and more[2] == 'poison' and outcome == 'crashed' then answer = 3 end
      end
    end
    answers[#answers + 1] = answer
  end
  for stream, entries in pairs(acks) do
    in_chunks(entries, 500, function(...) drop_entries(stream, ...) end)
  end
  for queue, ids in pairs(leases) do
    in_chunks(ids, 500, function(...) redis.call('ZREM', queue_key(queue, 'lease'), ...) end)
  end
  for queue in pairs(bells) do ring(queue) end
  return answers
end
