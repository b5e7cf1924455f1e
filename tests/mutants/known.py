"""The bugs M1 to M26 that task queues have had, planted here. Text that is to be replaced stands in `Edit.old`."""

from __future__ import annotations

from typing import Final

from tests.mutants.mutant import Edit, Mutant

LUA: Final = "stem/adapters/redis/scripts/"
VALKEY: Final = "tests/contract/test_valkey.py::TestValkeyBroker::"
HALF_WAY: Final = "tests/adapters/test_half_way.py::"
RULES: Final = "tests/adapters/test_scripts.py::"
LOST: Final = "tests/worker/test_lost_replies.py::"

MOVES: Final = (
    Mutant(
        id="M1",
        bug="a due task leaves the set where it waits before it stands in its stream",
        edits=[
            Edit(
                LUA + "fetch.lua",
                "    local key = task_key(id)\n    local r = redis.pcall('HMGET', key, 'st', 'p')\n",
                "    local key = task_key(id)\n    redis.call('ZREM', set, id)\n"
                "    local r = redis.pcall('HMGET', key, 'st', 'p')\n",
            )
        ],
        tests=[HALF_WAY + "test_a_due_task_stays_where_it_waits_until_it_stands_in_its_stream"],
    ),
    Mutant(
        id="M2",
        bug="a retry gives up entry and lease before the task stands where it waits",
        edits=[
            Edit(
                LUA + "settle.lua",
                "      if outcome == 'retry' then state, place = 'retrying', 'retry' end\n",
                "      if outcome == 'retry' then state, place = 'retrying', 'retry' end\n"
                "      drop_entries(stream_key(queue, priority), entry)\n"
                "      redis.call('ZREM', queue_key(queue, 'lease'), id)\n",
            )
        ],
        tests=[HALF_WAY + "test_a_retry_that_cannot_be_stored_takes_nothing_from_its_worker"],
        how="nearest",
        note="the acknowledgement alone would lose nothing here: reclaiming goes by the lease, so that is given up too",
    ),
    Mutant(
        id="M2b",
        bug="a retry is counted before the task stands where it waits: what is refused is counted again and again",
        edits=[
            Edit(
                LUA + "settle.lua",
                "      local again = AGAIN[outcome]\n",
                "      if outcome == 'retry' then attempt = redis.call('HINCRBY', key, 'a', 1) - 1 end\n"
                "      local again = AGAIN[outcome]\n",
            )
        ],
        tests=[HALF_WAY + "test_a_retry_that_cannot_be_stored_takes_nothing_from_its_worker"],
    ),
    Mutant(
        id="M2c",
        bug="a sweep counts the crash before the task is given back: what is refused is counted until it is poison",
        edits=[
            Edit(
                LUA + "sweep.lua",
                "        local state = r[8] and 'revoked'",
                "        redis.call('HSET', key, 'c', crashes)\n        local state = r[8] and 'revoked'",
            )
        ],
        tests=[HALF_WAY + "test_a_sweep_that_cannot_give_a_task_back_keeps_it_for_the_next"],
    ),
    Mutant(
        id="M3",
        bug="a beat renews the lease of a task that is another worker's by now",
        edits=[
            Edit(LUA + "beat.lua", "r[1] == ARGV[i + 1] and r[2] == worker and r[3] == 'running'", "r[3] == 'running'")
        ],
        tests=[VALKEY + "test_a_late_beat_takes_nothing_back", VALKEY + "test_a_beat_reports_what_was_lost"],
        how="nearest",
        note="there is no XCLAIM (M3c keeps it so): a lease is a score that the owner alone may raise",
    ),
    Mutant(
        id="M3b",
        bug="a beat of the right worker renews a lease whatever its token",
        edits=[Edit(LUA + "beat.lua", "r[1] == ARGV[i + 1] and r[2] == worker", "r[2] == worker")],
        tests=[VALKEY + "test_a_worker_that_got_its_task_again_has_no_say_by_the_old_token"],
    ),
    Mutant(
        id="M3c",
        bug="a beat claims the entry with XCLAIM, whoever owns it",
        edits=[
            Edit(
                LUA + "beat.lua",
                "    held[id] = true\n",
                "    held[id] = true\n    redis.pcall('XCLAIM', stream_key(queue, 0), 'stem', worker, 0, '0-1')\n",
            )
        ],
        tests=[RULES + "test_no_script_claims_an_entry"],
    ),
    Mutant(
        id="M4",
        bug="a settlement is accepted whatever its token",
        edits=[
            Edit(LUA + "settle.lua", "not r.err and r[1] == token and r[2] == worker", "not r.err and r[2] == worker")
        ],
        tests=[
            VALKEY + "test_a_worker_that_got_its_task_again_has_no_say_by_the_old_token",
            VALKEY + "test_a_token_that_was_never_given_settles_nothing",
        ],
    ),
    Mutant(
        id="M5",
        bug="the client library repeats calls by itself",
        edits=[
            Edit(
                "stem/adapters/redis/client.py",
                "        retry=AsyncRetry(NoBackoff(), 0),\n",
                "        retry=AsyncRetry(NoBackoff(), 3),\n",
            )
        ],
        tests=[
            "tests/adapters/test_sent_once.py::test_a_call_whose_reply_was_lost_is_not_repeated_behind_its_callers_back"
        ],
    ),
    Mutant(
        id="M5b",
        bug="the blocking client repeats calls by itself",
        edits=[
            Edit(
                "stem/adapters/redis/client.py",
                "connection_class=kind, retry=Retry(NoBackoff(), 0), **options)\n",
                "connection_class=kind, retry=Retry(NoBackoff(), 3), **options)\n",
            ),
            Edit(
                "stem/adapters/redis/blocking.py",
                'ask_blocking(self._pool, "EVALSHA", code.sha, 1, prefix, channels, *args)',
                "self._client.evalsha(code.sha, 1, prefix, channels, *args)",
            ),
        ],
        tests=["tests/adapters/test_sent_once.py::test_the_blocking_handle_repeats_nothing_either"],
    ),
    Mutant(
        id="M5c",
        bug="an enqueue that is repeated makes a second task",
        edits=[Edit(LUA + "enqueue.lua", "  if seen[1] and not seen[3] then\n", "  if false then\n")],
        tests=[
            VALKEY + "test_enqueueing_again_after_a_lost_reply_makes_no_second_task",
            VALKEY + "test_enqueueing_again_after_the_task_ran_does_not_run_it_again",
        ],
        how="nearest",
        note="there is no plain XADD: an enqueue is a script that knows its task's id, so a repetition is harmless",
    ),
    Mutant(
        id="M6",
        bug="a sweep looks at the same first hundred again and again",
        edits=[
            Edit(
                LUA + "sweep.lua",
                "        drop_entries(stream, entry)\n      end\n      redis.call('ZREM', leases, id)\n",
                "        drop_entries(stream, entry)\n        redis.call('ZREM', leases, id)\n      end\n",
            )
        ],
        tests=[HALF_WAY + "test_a_sweep_comes_past_more_bad_records_than_it_looks_at_in_one_turn"],
        how="nearest",
        note="there is no XAUTOCLAIM: a sweep takes the oldest leases, and what it has seen is out of its way",
    ),
    Mutant(
        id="M6b",
        bug="the look for tasks that stand nowhere begins anew each time",
        edits=[Edit("stem/worker/vitals.py", "self._broker.reconcile(cursor)", 'self._broker.reconcile("0")')],
        tests=[LOST + "test_every_page_of_records_is_looked_at_for_repair"],
    ),
    Mutant(
        id="M7",
        bug="a worker adopts what it is running already",
        edits=[Edit(LUA + "adopt.lua", "      if not (id and aware[id]) then\n", "      if true then\n")],
        tests=[VALKEY + "test_what_a_worker_knows_is_not_adopted"],
    ),
    Mutant(
        id="M7b",
        bug="a sweep takes tasks whose lease has not run out",
        edits=[
            Edit(
                LUA + "sweep.lua",
                "redis.call('ZRANGE', leases, '-inf', now,",
                "redis.call('ZRANGE', leases, '-inf', '+inf',",
            )
        ],
        tests=[VALKEY + "test_a_task_under_its_lease_is_left_alone", VALKEY + "test_a_beat_renews_leases"],
    ),
    Mutant(
        id="M8",
        bug="a group begins at the end of its stream",
        edits=[
            Edit(
                LUA + "fetch.lua",
                "redis.pcall('XGROUP', 'CREATE', stream, 'stem', '0', 'MKSTREAM')",
                "redis.pcall('XGROUP', 'CREATE', stream, 'stem', '$', 'MKSTREAM')",
            ),
            Edit(
                LUA + "ready.lua",
                "'XGROUP', 'CREATE', stream, 'stem', '0',",
                "'XGROUP', 'CREATE', stream, 'stem', '$',",
            ),
        ],
        tests=[
            "tests/adapters/test_redis.py::test_a_destroyed_group_is_made_anew_and_nothing_is_passed_over",
            RULES + "test_groups_begin_at_the_start_of_their_stream",
        ],
    ),
    Mutant(
        id="M9",
        bug="the stream of tasks is capped",
        edits=[
            Edit(
                LUA + "ready.lua",
                "redis.call('XADD', open_stream(queue, priority), '*', 'i', id)",
                "redis.call('XADD', open_stream(queue, priority), 'MAXLEN', '~', '1000', '*', 'i', id)",
            )
        ],
        tests=[RULES + "test_only_logs_are_capped", VALKEY + "test_a_batch_larger_than_a_round_trip_is_taken_whole"],
    ),
    Mutant(
        id="M10",
        bug="a worker that leaves has its consumer deleted although it owns entries",
        edits=[Edit(LUA + "records.lua", "if not pending.err and #pending == 0 then", "if not pending.err then")],
        tests=[
            VALKEY + "test_leaving_forgets_no_delivery",
            RULES + "test_a_consumer_that_owns_something_is_never_deleted",
        ],
    ),
)

WORKERS: Final = (
    Mutant(
        id="M11",
        bug="the heartbeat runs on the loop of the handlers",
        edits=[
            Edit(
                "stem/worker/vitals.py",
                "            self._thread.start()\n",
                "            loop = asyncio.get_running_loop()\n"
                "            self._here = loop.create_task(self._serve(loop))\n",
            ),
            Edit("stem/worker/vitals.py", "        self._thread.join(timeout_s)\n", "        return None\n"),
        ],
        tests=["tests/worker/test_steering.py::test_a_blocked_work_loop_still_answers_and_shows_where_it_blocks"],
        only="memory",
    ),
    Mutant(
        id="M11b",
        bug="plain functions run on the loop instead of in a thread",
        edits=[
            Edit(
                "stem/worker/dispatch.py",
                "    def _begin_elsewhere(self, job: Job, pool: ThreadExecutor | ProcessExecutor) -> None:\n",
                "    def _begin_elsewhere(self, job: Job, pool: ThreadExecutor | ProcessExecutor) -> None:\n"
                "        job.begin()\n        self.succeeded(job, job.call())\n        return\n",
            )
        ],
        tests=["tests/worker/test_outcomes.py::test_a_plain_function_runs_in_a_thread"],
        only="memory",
    ),
    Mutant(
        id="M12",
        bug="leases are renewed by the clock of the worker's machine",
        edits=[
            Edit(LUA + "beat.lua", "now + tonumber(ARGV[i + 2])", "tonumber(ARGV[i + 2])"),
            Edit(
                "stem/adapters/redis/calls.py",
                "lease.lease_ms, lease.queue",
                "round(__import__('time').time() * 1000) + lease.lease_ms, lease.queue",
            ),
            Edit(
                "stem/adapters/redis/broker.py",
                "lease.lease_ms, lease.queue, 0",
                "round(__import__('time').time() * 1000) + lease.lease_ms, lease.queue, 0",
            ),
        ],
        tests=["tests/adapters/test_server_time.py::test_a_wrong_clock_moves_no_lease_and_no_delay"],
    ),
    Mutant(
        id="M13",
        bug="a worker does not look for deliveries whose reply was lost",
        edits=[
            Edit(
                "stem/worker/intake.py",
                "isinstance(error, UnknownOutcomeError) or self._outage.on",
                "False",
            )
        ],
        tests=[LOST + "test_deliveries_whose_reply_was_lost_begin_at_once"],
        only="memory",
    ),
    Mutant(
        id="M13b",
        bug="a worker looks for lost deliveries after errors only, not with each sweep",
        edits=[Edit("stem/worker/vitals.py", "            self._work.adopt_soon()\n", "")],
        tests=[LOST + "test_deliveries_that_got_lost_unnoticed_are_found_by_the_next_sweep"],
        only="memory",
    ),
    Mutant(
        id="M14",
        bug="only the newest command of the log is acted on",
        edits=[
            Edit(
                LUA + "read.lua",
                "redis.call('XRANGE', P .. 'control:log', (after + 1) .. '-0', '+', 'COUNT', 1000)",
                "redis.call('XREVRANGE', P .. 'control:log', '+', (after + 1) .. '-0', 'COUNT', 1)",
            )
        ],
        tests=[VALKEY + "test_commands_are_logged_in_order"],
        how="nearest",
        note="a message of the control channel carries no change that could be acted on (M14b keeps it so)",
    ),
    Mutant(
        id="M14b",
        bug="commands that change something travel in the pub/sub message",
        edits=[
            Edit(
                LUA + "issue.lua",
                "redis.call('PUBLISH', C .. 'control', carried or epoch)",
                "redis.call('PUBLISH', C .. 'control', command)",
            )
        ],
        tests=[RULES + "test_a_wake_up_on_the_control_channel_carries_no_change"],
    ),
    Mutant(
        id="M15",
        bug="after a break the log is read before the subscription stands",
        edits=[
            Edit(
                "stem/worker/vitals.py",
                "                    await control.subscribe()\n                    listening = True\n"
                "                    await self._responder.catch_up()\n",
                "                    await self._responder.catch_up()\n"
                "                    await control.subscribe()\n                    listening = True\n",
            )
        ],
        tests=[LOST + "test_a_command_that_came_while_nobody_listened_is_read_once_somebody_listens_again"],
    ),
    Mutant(
        id="M16",
        bug="a subscription that answers no PING is kept",
        edits=[
            Edit(
                "stem/adapters/redis/subscription.py",
                "if self._asked is not None and now - self._asked > PONG_WITHIN_S:",
                "if False:",
            )
        ],
        tests=["tests/adapters/test_redis.py::test_a_silent_subscription_is_given_up"],
    ),
    Mutant(
        id="M17",
        bug="a body that cannot be read is settled as if it had ended, not kept as a dead letter",
        edits=[
            Edit(
                "stem/worker/verdict.py",
                "    if isinstance(error, DecodeError) and not isinstance(error, NewerVersionError):\n"
                '        return dead(delivery, 86_400_000, error, reason="malformed")\n',
                "    if isinstance(error, DecodeError) and not isinstance(error, NewerVersionError):\n"
                "        return Settlement(id=delivery.id, token=delivery.token, outcome=Outcome.EXPIRED)\n",
            )
        ],
        tests=[
            "tests/worker/test_outcomes.py::test_a_body_that_cannot_be_read_is_buried",
            "tests/worker/test_parts.py::test_a_newer_version_is_given_back_and_a_malformed_one_buried",
        ],
    ),
    Mutant(
        id="M18",
        bug="one bad record ends the whole sweep",
        edits=[Edit(LUA + "sweep.lua", "local r = redis.pcall('HMGET', key,", "local r = redis.call('HMGET', key,")],
        tests=[VALKEY + "test_a_broken_record_does_not_stop_a_sweep"],
    ),
    Mutant(
        id="M19",
        bug="a loop that dies is not started again",
        edits=[
            Edit(
                "stem/worker/loops.py",
                "        now = time.monotonic()\n        deaths.append(now)\n",
                "            return\n        now = time.monotonic()\n        deaths.append(now)\n",
            )
        ],
        tests=[
            "tests/worker/test_parts.py::test_a_loop_that_dies_is_started_again",
            "tests/worker/test_parts.py::test_a_loop_of_the_worker_that_dies_does_not_stop_it",
        ],
    ),
    Mutant(
        id="M20",
        bug="EVALSHA without a way out when the server has forgotten the script",
        edits=[
            Edit(
                "stem/adapters/redis/client.py",
                "            except redis.exceptions.NoScriptError:\n"
                "                # A server that was restarted or failed over: EVAL runs the script and loads it.\n",
                "            except ZeroDivisionError:\n",
            )
        ],
        tests=["tests/adapters/test_redis.py::test_scripts_survive_a_flush_of_the_script_cache"],
    ),
)

SAFETY: Final = (
    Mutant(
        id="M21",
        bug="a signature is checked over what the body means, written anew",
        edits=[
            Edit(
                "stem/worker/reading.py",
                "task.queue, task.body, task.signature)",
                "task.queue, __import__('msgpack').packb(__import__('msgpack').unpackb(task.body)), task.signature)",
            )
        ],
        tests=[
            "tests/worker/test_signed_bytes.py::test_the_signature_is_of_the_bytes_that_came_and_not_of_what_they_mean"
        ],
    ),
    Mutant(
        id="M22",
        bug="a worker does not ask which role the key of a command has",
        edits=[Edit("stem/control/guard.py", "if not may(role, command.type):", "if False:")],
        tests=["tests/control/test_guard.py::test_viewers_may_ask_and_nothing_else"],
    ),
    Mutant(
        id="M22b",
        bug="a signature made for one purpose is good for another",
        edits=[Edit("stem/signing.py", 'f"stem/{purpose}/v1".encode()', 'b"stem/v1"')],
        tests=["tests/test_signing.py::test_purpose_namespace_queue_and_every_byte_are_bound"],
    ),
    Mutant(
        id="M23",
        bug="a worker does not ask how old the signature of a command is",
        edits=[Edit("stem/control/guard.py", "command.expires_at_ms <= now_ms or command.issued", "command.issued")],
        tests=["tests/control/test_guard.py::test_a_signature_is_good_for_a_time"],
    ),
    Mutant(
        id="M23b",
        bug="a question is answered however late it comes",
        edits=[
            Edit(
                "stem/control/responder.py",
                "command.type in QUESTIONS and logged.issued_at_ms + command.timeout_ms < now_ms",
                "False",
            )
        ],
        tests=["tests/worker/test_steering.py::test_a_repeated_id_is_applied_once_and_a_late_question_not_at_all"],
    ),
    Mutant(
        id="M24",
        bug="the dashboard reads markup in what it shows",
        edits=[
            Edit(
                "tui/stem_tui/widgets/paint.py",
                "        texts.append(shown(text, look))\n",
                "        from rich.text import Text\n        texts.append(Text.from_markup(shown(text, look)).plain)\n",
            )
        ],
        tests=[
            "tests/tui/test_hostile.py::test_hostile_text_in_every_field_moves_nothing_and_does_nothing",
            "tests/tui/test_screens.py::test_no_widget_that_reads_markup_is_given_text",
        ],
    ),
    Mutant(
        id="M25",
        bug="a reclaim after a lost worker counts no crash: poison goes round for ever",
        edits=[Edit(LUA + "sweep.lua", "num(r[7]) + (alive and 0 or 1)", "num(r[7])")],
        tests=[
            VALKEY + "test_a_lost_workers_task_runs_elsewhere_with_a_crash",
            VALKEY + "test_a_task_that_kills_workers_is_buried",
        ],
    ),
    Mutant(
        id="M26",
        bug="a revoke marks a waiting task, and nobody looks at the mark before it starts",
        edits=[Edit(LUA + "issue.lua", "  if state == 'running' then\n", "  if state ~= '' then\n")],
        tests=[
            VALKEY + "test_a_waiting_task_is_revoked_at_once",
            VALKEY + "test_a_delayed_task_is_revoked_at_once",
            VALKEY + "test_a_retrying_task_is_revoked_at_once",
        ],
    ),
    Mutant(
        id="M26b",
        bug="a revoke reaches a running task by its command alone, not by the answer to the next heartbeat",
        edits=[
            Edit(
                "stem/worker/beat.py",
                "            if task_id in renewed:\n                self._revoked(renewed[task_id][0])\n",
                "            pass\n",
            ),
        ],
        tests=[LOST + "test_a_task_that_was_revoked_before_its_worker_knew_of_it_is_ended_all_the_same"],
        only="memory",
    ),
)

KNOWN: Final = (*MOVES, *WORKERS, *SAFETY)
