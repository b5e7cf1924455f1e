"""The contract of pausing and revoking: what an operator asked for holds for every start after it."""

from __future__ import annotations

import asyncio

import pytest

from stem.contracts import ClearPause, Outcome, PauseKind, RevokeTasks, SetPause
from stem.messages.codec import pack
from stem.testing.case import (
    FLEET,
    LONG_MS,
    QUEUE,
    BrokerCase,
    Corruption,
    Hand,
    Operator,
    enqueue,
    make_dead,
    new_task,
    now_ms,
    put,
    state_of,
    status_of,
    sweep_until,
    until,
)


class BrokerContractPause:
    """Pauses of queues, task names and workers."""

    async def test_a_paused_queue_hands_nothing_out(self, broker_case: BrokerCase) -> None:
        """Also what becomes due meanwhile; other queues go on; after the resume everything comes."""
        broker, operator = broker_case.broker, Operator(broker_case.broker)
        hand = Hand(broker=broker, id="w-1", queues=["a", "b"])
        await enqueue(broker, task_id="a-1", queue="a")
        await enqueue(broker, task_id="b-1", queue="b")
        await enqueue(broker, task_id="a-2", queue="a", delay_ms=10)
        await operator.issue("pause", SetPause(kind="queue", targets=["a"]))
        await hand.catch_up()
        await broker_case.advance(0.03)

        paused = await hand.fetch()
        await operator.issue("resume", ClearPause(kind="queue", targets=["a"]))
        await hand.catch_up()
        resumed = await hand.fetch()

        assert [d.id for d in paused] == ["b-1"]
        assert [d.id for d in resumed] == ["a-1", "a-2"]

    async def test_a_queue_can_be_paused_before_it_exists(self, broker_case: BrokerCase) -> None:
        """The first task of it waits."""
        hand = Hand(broker=broker_case.broker, id="w-1")
        await Operator(broker_case.broker).issue("pause", SetPause(kind="queue", targets=[QUEUE]))
        await hand.catch_up()
        await enqueue(broker_case.broker)

        assert list(await hand.fetch()) == []

    async def test_what_runs_in_a_paused_queue_goes_on(self, broker_case: BrokerCase) -> None:
        """It may finish, and may be given back, but is not started again."""
        hand = Hand(broker=broker_case.broker, id="w-1")
        await broker_case.broker.enqueue([new_task("t-1"), new_task("t-2")])
        one, two = await hand.fetch()
        await Operator(broker_case.broker).issue("pause", SetPause(kind="queue", targets=[QUEUE]))
        await hand.catch_up()

        assert await hand.end(one) == "applied"
        assert await hand.end(two, Outcome.GIVE_BACK) == "applied"
        assert list(await hand.fetch()) == []

    @pytest.mark.parametrize("kind", ["queue", "task", "worker"])
    async def test_a_pause_with_an_end_ends_by_itself(self, broker_case: BrokerCase, kind: PauseKind) -> None:
        """Nobody has to resume it, and nobody is made stale by its end."""
        broker = broker_case.broker
        hand = Hand(broker=broker, id="w-1")
        await hand.beat()
        target = {"queue": QUEUE, "task": "job", "worker": "w-1"}[kind]
        before = await now_ms(broker)
        await Operator(broker).issue("pause", SetPause(kind=kind, targets=[target], for_ms=250))
        await hand.catch_up()
        await enqueue(broker, task_id="t-1")

        listed, early = await broker.census.pauses(), await hand.fetch()
        await broker_case.advance(0.4)

        async def late() -> list[str]:
            got = [d.id for d in await hand.fetch()]
            if not got:
                await broker_case.advance(0.05)
            return got

        assert list(early) == []
        assert [(pause.kind, pause.target) for pause in listed] == [(kind, target)]
        assert listed[0].until_ms is not None
        assert listed[0].until_ms >= before + 250
        assert await until(late, what="the pause ended") == ["t-1"]
        assert list(await broker.census.pauses()) == []

    async def test_a_paused_task_name_is_held(self, broker_case: BrokerCase) -> None:
        """Tasks of that name wait and are counted apart; the others of the queue go on; a resume brings them back."""
        broker, operator = broker_case.broker, Operator(broker_case.broker)
        hand = Hand(broker=broker, id="w-1")
        await broker.enqueue([new_task("x-1", task="x"), new_task("y-1", task="y"), new_task("x-2", task="x")])
        await operator.issue("pause", SetPause(kind="task", targets=["x"]))
        await hand.catch_up()

        taken = [d.id for d in await hand.fetch()]
        (row,) = await broker.census.queues()
        held = await broker.census.tasks("held", queue=QUEUE)
        await operator.issue("resume", ClearPause(kind="task", targets=["x"]))
        await hand.catch_up()

        async def back() -> list[str]:
            ids = [d.id for d in await hand.fetch()]
            if not ids:
                await broker_case.advance(0.05)
            return ids

        assert taken == ["y-1"]
        assert (row.held, row.ready, row.in_flight) == (2, 0, 1)
        assert [item.id for item in held.items] == ["x-1", "x-2"]
        assert await until(back, what="the held ones came back") == ["x-1", "x-2"]

    async def test_a_held_task_keeps_its_priority(self, broker_case: BrokerCase) -> None:
        """It comes back to the line it stood in."""
        broker, operator = broker_case.broker, Operator(broker_case.broker)
        hand = Hand(broker=broker, id="w-1")
        await enqueue(broker, task_id="urgent", task="x", priority=9)
        await operator.issue("pause", SetPause(kind="task", targets=["x"]))
        await hand.catch_up()
        await hand.fetch()
        await enqueue(broker, task_id="plain", task="y")
        await operator.issue("resume", ClearPause(kind="task", targets=["x"]))
        await hand.catch_up()
        await broker_case.advance(0.2)

        assert [(d.id, d.priority) for d in await hand.fetch()] == [("urgent", 9), ("plain", 0)]

    async def test_the_first_fetch_after_the_resume_hands_out_what_was_held(self, broker_case: BrokerCase) -> None:
        """However often workers looked meanwhile: the resume wakes one worker, and that one must find it."""
        broker, operator = broker_case.broker, Operator(broker_case.broker)
        hand = Hand(broker=broker, id="w-1")
        await enqueue(broker, task_id="urgent", task="x", priority=9)
        await enqueue(broker, task_id="plain", task="x")
        await operator.issue("pause", SetPause(kind="task", targets=["x"]))
        await hand.catch_up()
        for _ in range(3):
            await hand.fetch()
            await broker_case.advance(0.12)
        await operator.issue("resume", ClearPause(kind="task", targets=["x"]))
        await hand.catch_up()

        assert [(d.id, d.priority) for d in await hand.fetch()] == [("urgent", 9), ("plain", 0)]

    async def test_a_resumed_name_is_found_behind_many_of_another(self, broker_case: BrokerCase) -> None:
        """Whoever looks is told to look again soon, until all that is held was looked at."""
        operator, hand = Operator(broker_case.broker), Hand(broker=broker_case.broker, id="w-1")
        await operator.issue("pause", SetPause(kind="task", targets=["x", "y"]))
        await hand.catch_up()
        await hand.broker.enqueue([*(new_task(task="x") for _ in range(450)), new_task("last", task="y")])
        assert [len(await hand.fetch()) for _ in range(4)] == [0] * 4
        await operator.issue("resume", ClearPause(kind="task", targets=["y"]))
        await hand.catch_up()
        while not (answer := await hand.exchange()).deliveries:
            assert (answer.next_due_ms or 9_999) <= 100
            await broker_case.advance(0.1)
        assert [each.id for each in answer.deliveries] == ["last"]

    @pytest.mark.parametrize("how", ["whole", "fields"])
    async def test_a_broken_record_stops_no_held_task(self, broker_case: BrokerCase, how: Corruption) -> None:
        """After the resume the others come back."""
        broker, operator = broker_case.broker, Operator(broker_case.broker)
        hand = Hand(broker=broker, id="w-1")
        await broker.enqueue([new_task(one, task="x") for one in ("a", "broken", "z")])
        await operator.issue("pause", SetPause(kind="task", targets=["x"]))
        await hand.catch_up()
        await hand.fetch()
        await broker_case.corrupt("broken", how)
        await operator.issue("resume", ClearPause(kind="task", targets=["x"]))
        await hand.catch_up()
        back: set[str] = set()

        async def others() -> bool:
            back.update(d.id for d in await hand.fetch())
            await broker_case.advance(0.02)
            return {"a", "z"} <= back

        await until(others, what="the others came back")

    async def test_a_paused_task_name_covers_what_becomes_due(self, broker_case: BrokerCase) -> None:
        """A delayed task and a retry of that name are not started either."""
        broker = broker_case.broker
        hand = Hand(broker=broker, id="w-1")
        await enqueue(broker, task="x")
        delivery = await hand.take()
        await enqueue(broker, task="x", delay_ms=10)
        await Operator(broker).issue("pause", SetPause(kind="task", targets=["x"]))
        await hand.catch_up()
        await hand.end(delivery, Outcome.RETRY, delay_ms=10)
        await broker_case.advance(0.03)

        assert list(await hand.fetch()) == []
        assert list(await hand.fetch()) == []

    @pytest.mark.parametrize("target", ["w-1", "alpha"])
    async def test_a_paused_worker_gets_nothing(self, broker_case: BrokerCase, target: str) -> None:
        """By its id or by its name; another worker is handed its share, and a resume ends it."""
        broker, operator = broker_case.broker, Operator(broker_case.broker)
        paused = Hand(broker=broker, id="w-1", name="alpha")
        other = Hand(broker=broker, id="w-2", name="beta")
        await paused.beat()
        await other.beat()
        await broker.enqueue([new_task("t-1"), new_task("t-2")])
        await operator.issue("pause", SetPause(kind="worker", targets=[target]))
        await paused.catch_up()
        await other.catch_up()

        assert list(await paused.fetch()) == []
        assert (await other.take()).id == "t-1"
        await operator.issue("resume", ClearPause(kind="worker", targets=[target]))
        await paused.catch_up()
        assert (await paused.take()).id == "t-2"

    async def test_a_pause_says_what_it_changed(self, broker_case: BrokerCase) -> None:
        """Pausing what is paused, or resuming what is not, is no change and no error; each target for itself."""
        operator = Operator(broker_case.broker)
        first = await operator.issue("pause", SetPause(kind="queue", targets=["a"]))
        second = await operator.issue("pause", SetPause(kind="queue", targets=["a", "b"]))
        third = await operator.issue("resume", ClearPause(kind="queue", targets=["a", "c"]))

        assert [(i.target, i.outcome, i.changed) for i in first.items] == [("a", "set", True)]
        assert [(i.target, i.outcome, i.changed) for i in second.items] == [("a", "already", False), ("b", "set", True)]
        assert [(i.target, i.outcome, i.changed) for i in third.items] == [
            ("a", "cleared", True),
            ("c", "already", False),
        ]

    async def test_a_resume_after_the_end_of_a_pause_changes_nothing(self, broker_case: BrokerCase) -> None:
        """Also when nobody has looked since it ended."""
        operator = Operator(broker_case.broker)
        await operator.issue("pause", SetPause(kind="queue", targets=[QUEUE], for_ms=20))
        await broker_case.advance(0.06)

        (item,) = (await operator.issue("resume", ClearPause(kind="queue", targets=[QUEUE]))).items

        assert (item.outcome, item.changed) == ("already", False)

    async def test_a_pause_says_who_asked_and_why(self, broker_case: BrokerCase) -> None:
        """In the list of pauses, in the queue's row and in desired state, and no clock but the broker's says when."""
        broker = broker_case.broker
        await enqueue(broker)
        reason = "disk is full: \N{SNOWMAN}"
        issued = await Operator(broker).issue(
            "pause", SetPause(kind="queue", targets=[QUEUE]), actor="ada", reason=reason
        )

        (pause,) = await broker.census.pauses()
        (row,) = await broker.census.queues()
        desired = await broker.control.read(0)

        assert (pause.kind, pause.target, pause.actor, pause.until_ms) == ("queue", QUEUE, "ada", None)
        assert pause.reason == reason
        assert abs(pause.at_ms - issued.now_ms) <= 1
        assert row.pause == pause
        assert list(desired.pauses) == [pause]

    async def test_odd_words_of_an_operator_break_nothing(self, broker_case: BrokerCase) -> None:
        """Tabs, newlines and escapes may be made harmless, but stay in their own field."""
        broker = broker_case.broker
        odd = "a\tb\nc\x1b[31m\x00"
        await Operator(broker).issue("pause", SetPause(kind="queue", targets=["a"], for_ms=LONG_MS), reason=odd)
        await Operator(broker).issue("pause", SetPause(kind="queue", targets=["b"]), actor=odd, reason="why")

        first, second = await broker.census.pauses()

        assert (first.target, first.actor, first.until_ms is None) == ("a", "ada", False)
        assert first.reason.startswith("a")
        assert (second.target, second.reason, second.until_ms) == ("b", "why", None)
        assert second.actor.startswith("a")

    async def test_a_pause_of_one_kind_is_not_one_of_another(self, broker_case: BrokerCase) -> None:
        """A task named like a queue goes on."""
        hand = Hand(broker=broker_case.broker, id="w-1")
        await enqueue(broker_case.broker, task="same", queue=QUEUE)
        await Operator(broker_case.broker).issue("pause", SetPause(kind="queue", targets=["same"]))
        await Operator(broker_case.broker).issue("pause", SetPause(kind="task", targets=[QUEUE]))
        await hand.catch_up()

        assert len(await hand.fetch()) == 1

    async def test_a_resume_wakes_idle_workers(self, broker_case: BrokerCase) -> None:
        """What waited behind a pause is not left until somebody happens to look."""
        broker, operator = broker_case.broker, Operator(broker_case.broker)
        hand = Hand(broker=broker, id="w-1")
        await enqueue(broker)
        await operator.issue("pause", SetPause(kind="queue", targets=[QUEUE]))
        await hand.catch_up()
        assert list(await hand.fetch()) == []
        await broker.idle([QUEUE], 0.05)
        await operator.issue("resume", ClearPause(kind="queue", targets=[QUEUE]))
        await hand.catch_up()

        await broker.idle([QUEUE], 2.0)

        assert len(await hand.fetch()) == 1


class BrokerContractRevoke:
    """A revoked task never starts again."""

    async def test_a_waiting_task_is_revoked_at_once(self, broker_case: BrokerCase) -> None:
        """Final, with the operator's words, with no worker online; it frees its place and its unique key."""
        broker = broker_case.broker
        await enqueue(broker, task_id="t-1", unique_key="k")

        issued = await Operator(broker).issue("revoke", RevokeTasks(ids=["t-1"]), reason="wrong file")
        status = await status_of(broker, "t-1")
        (row,) = await broker.census.queues()

        assert [(i.target, i.outcome, i.changed) for i in issued.items] == [("t-1", "revoked", True)]
        assert (status.state, status.reason) == ("revoked", "wrong file")
        assert status.finished_at_ms is not None
        assert row.ready == 0
        assert (await put(broker, new_task("t-2", unique_key="k"))).outcome == "queued"
        assert [d.id for d in await Hand(broker=broker, id="w-1").fetch()] == ["t-2"]

    async def test_a_delayed_task_is_revoked_at_once(self, broker_case: BrokerCase) -> None:
        """It does not come when its time comes."""
        broker = broker_case.broker
        await enqueue(broker, task_id="t-1", delay_ms=30)
        issued = await Operator(broker).issue("revoke", RevokeTasks(ids=["t-1"]))
        await broker_case.advance(0.05)

        assert [i.outcome for i in issued.items] == ["revoked"]
        assert await state_of(broker, "t-1") == "revoked"
        assert list(await Hand(broker=broker, id="w-1").fetch()) == []

    async def test_a_retrying_task_is_revoked_at_once(self, broker_case: BrokerCase) -> None:
        """There is no next attempt."""
        broker = broker_case.broker
        hand = Hand(broker=broker, id="w-1")
        await enqueue(broker, task_id="t-1")
        await hand.end(await hand.take(), Outcome.RETRY, delay_ms=30)
        issued = await Operator(broker).issue("revoke", RevokeTasks(ids=["t-1"]))
        await broker_case.advance(0.05)

        assert [i.outcome for i in issued.items] == ["revoked"]
        assert list(await hand.fetch()) == []
        (row,) = await broker.census.queues()
        assert (row.retrying, row.ready) == (0, 0)

    async def test_a_held_task_is_revoked_at_once(self, broker_case: BrokerCase) -> None:
        """The resume does not bring it back."""
        broker, operator = broker_case.broker, Operator(broker_case.broker)
        hand = Hand(broker=broker, id="w-1")
        await enqueue(broker, task_id="t-1", task="x")
        await operator.issue("pause", SetPause(kind="task", targets=["x"]))
        await hand.catch_up()
        await hand.fetch()
        issued = await operator.issue("revoke", RevokeTasks(ids=["t-1"]))
        await operator.issue("resume", ClearPause(kind="task", targets=["x"]))
        await hand.catch_up()
        await broker_case.advance(0.2)

        assert [i.outcome for i in issued.items] == ["revoked"]
        assert list(await hand.fetch()) == []
        (row,) = await broker.census.queues()
        assert (row.held, row.ready) == (0, 0)

    async def test_a_running_task_is_marked(self, broker_case: BrokerCase) -> None:
        """The answer names its worker; its state stays `running` until that worker ends it."""
        broker = broker_case.broker
        hand = Hand(broker=broker, id="w-1")
        await enqueue(broker, task_id="t-1")
        delivery = await hand.take()

        first = await Operator(broker).issue("revoke", RevokeTasks(ids=["t-1"], terminate=True))
        again = await Operator(broker).issue("revoke", RevokeTasks(ids=["t-1"]))
        state = await state_of(broker, "t-1")

        assert [(i.outcome, i.changed, i.worker) for i in first.items] == [("running", True, "w-1")]
        assert [i.changed for i in again.items] == [False]
        assert state == "running"
        assert await hand.end(delivery, Outcome.REVOKED) == "applied"
        assert await state_of(broker, "t-1") == "revoked"

    @pytest.mark.parametrize("outcome", [Outcome.RETRY, Outcome.GIVE_BACK, Outcome.CRASHED, Outcome.DEAD])
    async def test_a_revoked_running_task_does_not_come_back(self, broker_case: BrokerCase, outcome: Outcome) -> None:
        """Whatever would have started it again, or let it be replayed, makes it `revoked` instead."""
        broker = broker_case.broker
        hand = Hand(broker=broker, id="w-1")
        await enqueue(broker, task_id="t-1")
        delivery = await hand.take()
        await Operator(broker).issue("revoke", RevokeTasks(ids=["t-1"]))

        answers = [await hand.end(delivery, outcome), await hand.end(delivery, outcome)]
        deliveries = await hand.fetch()

        assert (answers, list(deliveries)) == (["revoked", "revoked"], [])
        assert await state_of(broker, "t-1") == "revoked"

    async def test_a_revoked_task_of_a_lost_worker_does_not_come_back(self, broker_case: BrokerCase) -> None:
        """The sweep ends it; the mark is in the record, not in the worker."""
        broker = broker_case.limits(FLEET)
        gone, here = (
            Hand(broker=broker, id="gone"),
            Hand(broker=broker, id="here", interval_ms=FLEET.lost_after_ms // 3),
        )
        await enqueue(broker, task_id="t-1")
        await gone.beat()
        await gone.take(lease_ms=10)
        await enqueue(broker, task_id="t-2")
        await gone.take(lease_ms=10)
        await gone.beat(state="stopped")
        await Operator(broker).issue("revoke", RevokeTasks(ids=["t-1"]))

        await sweep_until(broker_case, broker, here)

        assert [d.id for d in await here.fetch()] == ["t-2"]
        assert await state_of(broker, "t-1") == "revoked"

    async def test_a_success_stands_against_a_late_revoke(self, broker_case: BrokerCase) -> None:
        """What was done is told as done."""
        broker = broker_case.broker
        hand = Hand(broker=broker, id="w-1")
        await enqueue(broker, task_id="t-1")
        delivery = await hand.take()
        await Operator(broker).issue("revoke", RevokeTasks(ids=["t-1"]))

        assert await hand.end(delivery, result=pack(1)) == "applied"
        assert (await status_of(broker, "t-1")).result == 1

    async def test_an_unknown_task_is_revoked_before_it_comes(self, broker_case: BrokerCase) -> None:
        """A tombstone waits for it; the enqueue is answered `revoked`, it is final, and never starts."""
        broker = broker_case.broker
        first = await Operator(broker).issue("revoke", RevokeTasks(ids=["t-1"]))
        again = await Operator(broker).issue("revoke", RevokeTasks(ids=["t-1"]))
        task = new_task("t-1", unique_key="k")

        answer = await put(broker, task)
        repeated = await put(broker, task)

        assert [(i.outcome, i.changed) for i in first.items] == [("stored", True)]
        assert [i.changed for i in again.items] == [False]
        assert (answer.id, answer.outcome) == ("t-1", "revoked")
        assert repeated.outcome in ("revoked", "exists")
        assert await state_of(broker, "t-1") == "revoked"
        assert list(await Hand(broker=broker, id="w-1").fetch()) == []
        assert (await put(broker, new_task("t-2", unique_key="k"))).outcome == "queued"

    async def test_a_final_task_is_left_as_it_is(self, broker_case: BrokerCase) -> None:
        """The answer says how it ended."""
        broker = broker_case.broker
        hand = Hand(broker=broker, id="undertaker")
        await make_dead(broker, task_id="dead")
        await enqueue(broker, task_id="done")
        await hand.end(await hand.take(), result=pack(1))
        await enqueue(broker, task_id="revoked")
        await Operator(broker).issue("revoke", RevokeTasks(ids=["revoked"]))

        issued = await Operator(broker).issue("revoke", RevokeTasks(ids=["dead", "done", "revoked"]))

        assert [(i.outcome, i.state, i.changed) for i in issued.items[:2]] == [
            ("final", "failed", False),
            ("final", "succeeded", False),
        ]
        assert issued.items[2].outcome in ("already", "final")
        assert issued.items[2].changed is False
        assert (await status_of(broker, "done")).result == 1

    async def test_many_are_revoked_in_one_command(self, broker_case: BrokerCase) -> None:
        """One answer for each, in order."""
        broker = broker_case.broker
        await broker.enqueue([new_task(f"t-{n}") for n in range(50)])
        ids = [f"t-{n}" for n in range(0, 50, 2)]

        issued = await Operator(broker).issue("revoke", RevokeTasks(ids=[*ids, "nobody"]))
        left = await Hand(broker=broker, id="w-1").fetch()

        assert [i.target for i in issued.items] == [*ids, "nobody"]
        assert [i.outcome for i in issued.items] == ["revoked"] * 25 + ["stored"]
        assert [d.id for d in left] == [f"t-{n}" for n in range(1, 50, 2)]

    async def test_waiting_ends_when_the_task_is_revoked(self, broker_case: BrokerCase) -> None:
        """A revoke is an end like others: who waits is told."""
        broker = broker_case.broker
        await enqueue(broker, task_id="t-1", delay_ms=LONG_MS)
        waiting = asyncio.create_task(broker.wait("t-1", 8.0))
        await asyncio.sleep(0.05)

        await Operator(broker).issue("revoke", RevokeTasks(ids=["t-1"]))
        status = await asyncio.wait_for(waiting, 4)

        assert status is not None
        assert status.state == "revoked"
