"""Bugs in what this design has invented: the bell, the one exchange, the fence, the barrier, adoption, self-stop."""

from __future__ import annotations

from typing import Final

from tests.mutants.known import LOST, LUA, VALKEY
from tests.mutants.mutant import Edit, Mutant

BROKERS: Final = (
    Mutant(
        id="X1",
        bug="the bell is never rung",
        edits=[Edit(LUA + "ready.lua", "if redis.call('LLEN', bell) == 0 then", "if false then")],
        tests=[
            VALKEY + "test_an_idle_worker_is_woken_by_a_task",
            VALKEY + "test_a_retry_that_becomes_due_is_announced",
        ],
    ),
    Mutant(
        id="X2",
        bug="whoever knows the token may settle, owner or not",
        edits=[Edit(LUA + "settle.lua", "r[1] == token and r[2] == worker and r[3]", "r[1] == token and r[3]")],
        tests=[VALKEY + "test_another_worker_cannot_settle_with_the_right_token"],
    ),
    Mutant(
        id="X3",
        bug="a pause raises no fence",
        edits=[
            Edit(
                LUA + "issue.lua",
                "if change ~= '' and change ~= 'revoke' then redis.call('SET'",
                "if false then redis.call('SET'",
            )
        ],
        tests=[VALKEY + "test_a_worker_behind_the_fence_is_stale"],
    ),
    Mutant(
        id="X4",
        bug="a pause is confirmed without waiting for what was handed out before it",
        edits=[
            Edit(
                "stem/control/responder.py",
                '    await worker.barrier()\n                await self._reply(command, "effect", {})\n',
                '    pass\n                await self._reply(command, "effect", {})\n',
            )
        ],
        tests=[LOST + "test_a_pause_is_confirmed_only_once_what_was_handed_out_before_it_has_begun"],
        only="memory",
    ),
    Mutant(
        id="X5",
        bug="nobody looks whether a retry has become due",
        edits=[Edit(LUA + "fetch.lua", "ipairs({ 'delayed', 'retry' })", "ipairs({ 'delayed' })")],
        tests=[VALKEY + "test_a_retry_runs_again_when_it_is_due"],
    ),
    Mutant(
        id="X7",
        bug="an adopted delivery keeps the rest of a lease that nobody renewed",
        edits=[
            Edit(LUA + "adopt.lua", "            redis.call('ZADD', queue_key(queue, 'lease'), now + length, id)\n", "")
        ],
        tests=[VALKEY + "test_an_adopted_delivery_begins_its_lease_anew"],
    ),
    Mutant(
        id="X10",
        bug="a unique key is held on after its task has ended",
        edits=[Edit(LUA + "records.lua", "    if redis.call('GET', key) == id then redis.call('DEL', key) end\n", "")],
        tests=[VALKEY + "test_a_final_state_releases_the_key"],
    ),
    Mutant(
        id="X11",
        bug="a settlement that is repeated is told lost",
        edits=[Edit(LUA + "settle.lua", "      answer = 2\n", "      answer = 0\n")],
        tests=[VALKEY + "test_settling_again_after_a_lost_reply_changes_nothing"],
    ),
    Mutant(
        id="X12",
        bug="after an outage of the server everybody's tasks are taken at once",
        edits=[Edit(LUA + "sweep.lua", "  or within(fleet[2], lost_after * 2 / 3) then", "  then")],
        tests=[VALKEY + "test_after_an_outage_nobody_is_robbed_at_once"],
    ),
    Mutant(
        id="X13",
        bug="a replayed dead letter begins with token 0 again: the worker of its former life may settle it",
        edits=[
            Edit(
                LUA + "revive.lua",
                "'st', 'queued', 'a', '0', 'c', '0',",
                "'st', 'queued', 'k', '0', 'a', '0', 'c', '0',",
            )
        ],
        tests=[
            VALKEY + "test_the_worker_of_the_former_life_settles_nothing",
            VALKEY + "test_a_replay_is_a_new_life",
        ],
    ),
    Mutant(
        id="X14",
        bug="a task revoked before it was enqueued is queued all the same",
        edits=[Edit(LUA + "enqueue.lua", "    if seen[3] then\n", "    if false then\n")],
        tests=[VALKEY + "test_an_unknown_task_is_revoked_before_it_comes"],
    ),
    Mutant(
        id="X15",
        bug="what was held for a paused task name is never put back",
        edits=[Edit(LUA + "fetch.lua", "      if flags[11] then\n", "      if false then\n")],
        tests=[VALKEY + "test_the_first_fetch_after_the_resume_hands_out_what_was_held"],
    ),
    Mutant(
        id="X16",
        bug="a heartbeat that was under way brings a worker back that had said goodbye",
        edits=[
            Edit(
                LUA + "beat.lua",
                "if state == 'stopped' or redis.call('HGET', key, 's') ~= 'stopped' then",
                "if true then",
            )
        ],
        tests=[VALKEY + "test_a_goodbye_is_the_last_word"],
    ),
    Mutant(
        id="X17",
        bug="a revoked task that its worker hands back is started again",
        edits=[Edit(LUA + "settle.lua", "if more[2] and REVOCABLE[outcome]", "if false and REVOCABLE[outcome]")],
        tests=[VALKEY + "test_a_revoked_running_task_does_not_come_back"],
    ),
    Mutant(
        id="X21",
        bug="whoever takes a part of a burst does not ring for the rest",
        edits=[Edit(LUA + "fetch.lua", "        more = 1\n        ring(queue)\n", "        more = 1\n")],
        tests=[VALKEY + "test_who_takes_a_part_of_a_burst_wakes_the_next"],
    ),
    Mutant(
        id="X21b",
        bug="a sweep does not ring for what it gives back",
        edits=[Edit(LUA + "sweep.lua", "    if woke then ring(queue) end\n", "")],
        tests=[VALKEY + "test_what_a_sweep_gives_back_is_announced"],
    ),
    Mutant(
        id="X21c",
        bug="a repair does not ring for what it has found",
        edits=[Edit(LUA + "reconcile.lua", "      ring(queue)\n", "")],
        tests=[VALKEY + "test_what_is_found_standing_nowhere_is_announced"],
    ),
    Mutant(
        id="X22",
        bug="a task that is due before all others does not ring",
        edits=[
            Edit(
                LUA + "enqueue.lua",
                "        if redis.call('ZRANGE', delayed, 0, 0)[1] == id then ring(queue) end\n",
                "",
            )
        ],
        tests=[VALKEY + "test_a_task_that_is_due_before_all_others_is_announced"],
    ),
    Mutant(
        id="X23",
        bug="a wait for the bell that ends leaves its reader behind, which takes the next ring",
        edits=[
            Edit(
                "stem/adapters/redis/waiting.py",
                'await self._client.run("wake", sleeper.wake)\n',
                "return\n",
            ),
            Edit(
                "stem/adapters/redis/waiting.py",
                "            if not read.done():\n                read.cancel()",
                "            if False:\n                read.cancel()",
            ),
        ],
        tests=["tests/adapters/test_redis.py::test_an_idle_wait_ends_on_time_and_leaves_no_reader_behind"],
    ),
)

WORKERS: Final = (
    Mutant(
        id="X24",
        bug="a command that comes twice is carried out twice",
        edits=[
            Edit(
                "stem/control/guard.py",
                "            return self._remember(command, now_ms)\n",
                "            return True\n",
            )
        ],
        tests=["tests/worker/test_steering.py::test_a_repeated_id_is_applied_once_and_a_late_question_not_at_all"],
    ),
    Mutant(
        id="X6",
        bug="a worker does not compare the epoch that a beat tells it with its own",
        edits=[Edit("stem/worker/beat.py", "        if answer.epoch != board.epoch:\n", "        if False:\n")],
        tests=[LOST + "test_a_worker_that_hears_nothing_learns_of_commands_from_its_heartbeat"],
    ),
    Mutant(
        id="X8",
        bug="a worker whose beats do not get through runs on past its leases",
        edits=[Edit("stem/worker/watchdog.py", "                self._check_leases(now)\n", "                pass\n")],
        tests=[
            "tests/worker/test_limits.py::test_without_confirmed_renewal_the_handler_is_stopped_before_the_lease_ends"
        ],
    ),
    Mutant(
        id="X9",
        bug="a task that nobody here knows is given back without a delay: it goes round and round",
        edits=[
            Edit(
                "stem/worker/verdict.py",
                "        delay_ms=min(1000 * 2 ** min(delivery.give_backs, 10), LONGEST_GIVE_BACK_MS),\n",
                "        delay_ms=0,\n",
            )
        ],
        tests=["tests/worker/test_parts.py::test_an_unknown_name_comes_back_ever_later"],
    ),
    Mutant(
        id="X18",
        bug="outcomes whose exchange failed are forgotten: their tasks are held and renewed for ever",
        edits=[
            Edit(
                "stem/worker/finisher.py", "        self._waiting.extendleft(reversed(jobs))\n", "        return None\n"
            )
        ],
        tests=[LOST + "test_an_outcome_whose_reply_was_lost_is_sent_again"],
        only="memory",
    ),
    Mutant(
        id="X19",
        bug="a worker goes on with a task that the broker says is lost",
        edits=[
            Edit(
                "stem/worker/vitals.py",
                "        job.lost = True\n        self._work.lose(job)\n",
                "        job.lost = True\n",
            )
        ],
        tests=[LOST + "test_the_answer_to_a_beat_that_a_lease_is_gone_ends_the_handler"],
        only="memory",
    ),
    Mutant(
        id="X19b",
        bug="a worker that gets a task again, before it heard of the loss, runs both",
        edits=[
            Edit(
                "stem/worker/dispatch.py",
                "            self.lose(older)  # we lost it",
                "            pass  # we lost it",
            )
        ],
        tests=["tests/worker/test_lost_leases.py::test_a_task_that_comes_back_to_its_worker_ends_the_first_run"],
    ),
    Mutant(
        id="X20",
        bug="the barrier does not see exchanges whose reply is still under way",
        edits=[
            Edit(
                "stem/worker/intake.py",
                "        return self._adopt or any(number <= serial for number in list(self._under_way))\n",
                "        return False\n",
            )
        ],
        tests=[LOST + "test_a_pause_is_confirmed_only_once_what_was_handed_out_before_it_has_begun"],
        only="memory",
    ),
    Mutant(
        id="X25",
        bug="a worker that stops does not leave: its consumers pile up",
        edits=[
            Edit(
                "stem/worker/vitals.py",
                "                await insist(lambda: broker.leave(self._identity.id, self._board.queues))\n",
                "                pass\n",
            )
        ],
        tests=["tests/worker/test_leaving.py::test_a_worker_that_has_stopped_is_no_consumer_any_more"],
    ),
    Mutant(
        id="X27",
        bug="what arrives while the worker stops is begun",
        edits=[
            Edit(
                "stem/worker/dispatch.py",
                "        if board.stopping:\n            self._settle(job",
                "        if False:\n            self._settle(job",
            )
        ],
        tests=[LOST + "test_what_arrives_while_the_worker_stops_is_handed_back_and_does_not_begin"],
        only="memory",
    ),
    Mutant(
        id="X28",
        bug="a worker with nothing in flight stops although the broker's answer may still bring tasks",
        edits=[Edit("stem/worker/lifecycle.py", "        await self._until_answered()\n", "")],
        tests=[LOST + "test_what_arrives_while_the_worker_stops_is_handed_back_and_does_not_begin"],
        only="memory",
    ),
    Mutant(
        id="X26",
        bug="a renewed lease counts from the answer: over a slow connection the worker stops itself too late",
        edits=[
            Edit(
                "stem/worker/beat.py",
                "self._learn(answer, renewed, sent_at)",
                "self._learn(answer, renewed, time.monotonic())",
            )
        ],
        tests=[LOST + "test_a_lease_counts_from_when_it_was_asked_for_and_not_from_the_answer"],
        only="memory",
    ),
    Mutant(
        id="X26b",
        bug="a lease that comes with a delivery counts from the answer",
        edits=[
            Edit(
                "stem/worker/intake.py",
                "            begin(delivery, sent_at)\n",
                "            begin(delivery, time.monotonic())\n",
            )
        ],
        tests=[LOST + "test_a_lease_counts_from_when_it_was_asked_for_and_not_from_the_answer"],
        only="memory",
    ),
    Mutant(
        id="X29",
        bug="a command that is given again under its signature is obeyed again",
        edits=[Edit("stem/control/guard.py", "if not self._remember(command, now_ms):", "if False:")],
        tests=["tests/control/test_guard.py::test_a_command_is_obeyed_once_however_many_came_between"],
    ),
    Mutant(
        id="X29b",
        bug="a worker that was started again obeys commands that were given before",
        edits=[Edit("stem/control/guard.py", "if command.issued_at_ms < self._begun_ms - GRACE_MS:", "if False:")],
        tests=["tests/control/test_guard.py::test_a_worker_that_was_started_again_obeys_no_command_of_its_former_life"],
    ),
    Mutant(
        id="X30",
        bug="a drain or stop that merely stands in the broker moves a worker that obeys signatures",
        edits=[
            Edit("stem/control/guard.py", "return replace(desired, drained=drained, shutdown={})", "return desired")
        ],
        tests=[
            "tests/control/test_guard.py::test_what_stands_in_the_broker_drains_or_stops_nobody_who_obeys_signatures"
        ],
    ),
    Mutant(
        id="X32",
        bug="an expired task is started",
        edits=[Edit(LUA + "fetch.lua", "elseif r[4] and num(r[4]) <= now then", "elseif false then")],
        tests=[
            VALKEY + "test_an_expired_task_is_never_started",
            VALKEY + "test_a_retry_past_the_expiry_is_not_started",
        ],
    ),
    Mutant(
        id="X31",
        bug="an end of no known kind is stored as a final state: the task vanishes",
        edits=[Edit(LUA + "settle.lua", "if OUTCOMES[outcome] and not r.err", "if not r.err")],
        tests=["tests/adapters/test_redis.py::test_an_end_of_no_known_kind_ends_nothing"],
    ),
)

OWN: Final = (*BROKERS, *WORKERS)
