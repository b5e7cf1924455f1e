"""The contract of operating on tasks: dead letters, replay, retry now, purge, discard, reconcile."""

from __future__ import annotations

import pytest

from stem.contracts import Limits, Outcome, RevokeTasks, SetPause
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
    put,
    state_of,
    status_of,
    sweep_until,
)


class BrokerContractDeadLetters:
    """What will not run again by itself."""

    async def test_dead_letters_are_listed_newest_first(self, broker_case: BrokerCase) -> None:
        """With reason and error, per queue and over all."""
        for number in range(3):
            await make_dead(broker_case.broker, task_id=f"t-{number}", reason=f"reason-{number}")
            await broker_case.advance(0.005)
        await make_dead(broker_case.broker, task_id="far", queue="far")

        page = await broker_case.broker.census.tasks("dead", queue=QUEUE)
        every = await broker_case.broker.census.tasks("dead")

        assert [(item.id, item.reason) for item in page.items] == [
            ("t-2", "reason-2"),
            ("t-1", "reason-1"),
            ("t-0", "reason-0"),
        ]
        assert page.total == 3
        assert page.items[0].error is not None
        assert {item.id for item in every.items} == {"t-0", "t-1", "t-2", "far"}

    async def test_dead_letters_are_capped_by_count(self, broker_case: BrokerCase) -> None:
        """The oldest go first; the newest stay."""
        broker = broker_case.limits(Limits(dead_count=3))
        for number in range(5):
            await make_dead(broker, task_id=f"t-{number}")
            await broker_case.advance(0.005)

        page = await broker.census.tasks("dead", queue=QUEUE)

        assert [item.id for item in page.items] == ["t-4", "t-3", "t-2"]

    async def test_dead_letters_are_capped_by_age(self, broker_case: BrokerCase) -> None:
        """One that is too old is gone when the next one comes, at the latest."""
        broker = broker_case.limits(Limits(dead_ttl_ms=200))
        await make_dead(broker, task_id="old")
        await broker_case.advance(0.25)
        await make_dead(broker, task_id="new")

        page = await broker.census.tasks("dead", queue=QUEUE)

        assert [item.id for item in page.items] == ["new"]

    async def test_a_dead_letter_outlives_its_ttl(self, broker_case: BrokerCase) -> None:
        """Dead letters are kept until purged, whatever `ttl_ms` said."""
        hand = Hand(broker=broker_case.broker, id="w-1")
        await enqueue(broker_case.broker, task_id="t-1")
        await hand.end(await hand.take(), Outcome.DEAD, ttl_ms=20)
        await broker_case.advance(0.05)

        assert await state_of(broker_case.broker, "t-1") == "failed"
        assert await broker_case.broker.body("t-1") is not None

    async def test_a_replay_is_a_new_life(self, broker_case: BrokerCase) -> None:
        """Same id and body, attempt and crashes 0, and the token goes on."""
        broker = broker_case.broker
        hand = Hand(broker=broker, id="w-1")
        task = new_task("t-1")
        await put(broker, task)
        await hand.end(await hand.take(), Outcome.RETRY)
        await hand.end(await hand.take(), Outcome.CRASHED)
        await hand.end(await hand.take(), Outcome.DEAD)

        answers = await broker.replay(["t-1"])
        state = await state_of(broker, "t-1")
        again = await hand.take()

        assert answers == {"t-1": "queued"}
        assert state == "queued"
        assert (again.attempt, again.crashes, again.token, again.body) == (0, 0, 4, task.body)
        assert list((await broker.census.tasks("dead")).items) == []
        assert await hand.end(again) == "applied"
        assert await state_of(broker, "t-1") == "succeeded"

    async def test_the_worker_of_the_former_life_settles_nothing(self, broker_case: BrokerCase) -> None:
        """Since the token goes on, an old delivery cannot end a replayed task."""
        broker = broker_case.broker
        hand = Hand(broker=broker, id="undertaker")
        old = await make_dead(broker, task_id="t-1")
        await broker.replay(["t-1"])
        await hand.take()

        assert await hand.end(old) in ("already", "lost")
        assert await state_of(broker, "t-1") == "running"

    async def test_a_replay_keeps_the_story_of_the_life_before(self, broker_case: BrokerCase) -> None:
        """Whoever is paged reads in the timeline who ran it first, and how that ended."""
        broker = broker_case.broker
        hand, heir = Hand(broker=broker, id="w-1"), Hand(broker=broker, id="w-2")
        task_id = await enqueue(broker)
        await hand.end(await hand.take(), Outcome.DEAD, reason="no such file")
        await broker.replay([task_id])
        await heir.end(await heir.take())

        timeline = (await status_of(broker, task_id)).timeline

        assert [(each.event, each.worker) for each in timeline] == [
            ("enqueued", ""),
            ("started", "w-1"),
            ("failed", "w-1"),
            ("replayed", ""),
            ("started", "w-2"),
            ("succeeded", "w-2"),
        ]
        assert timeline[2].detail == "no such file"

    async def test_a_replay_tells_of_each_start_once(self, broker_case: BrokerCase) -> None:
        """Also of one that a sweep has told of, when it buried the task."""
        broker = broker_case.limits(FLEET)
        gone, here = (
            Hand(broker=broker, id="gone"),
            Hand(broker=broker, id="here", interval_ms=FLEET.lost_after_ms // 3),
        )
        task_id = await enqueue(broker)
        await gone.beat()
        await gone.take(lease_ms=10)
        await gone.beat(state="stopped")
        await sweep_until(broker_case, broker, here, max_crashes=1)
        await broker.replay([task_id])

        told = [each.event for each in (await status_of(broker, task_id)).timeline]

        assert told.count("started") == 1
        assert told[-1] == "replayed"

    async def test_replaying_again_after_a_lost_reply_makes_no_second_task(self, broker_case: BrokerCase) -> None:
        """The second call finds it waiting."""
        broker = broker_case.broker
        await make_dead(broker, task_id="t-1")

        answers = await broker_case.lose_reply(lambda: broker.replay(["t-1"]))

        assert answers["t-1"] in ("queued", "not-dead")
        assert len(await Hand(broker=broker, id="w-1").fetch()) == 1

    async def test_only_dead_letters_are_replayed(self, broker_case: BrokerCase) -> None:
        """Waiting and succeeded tasks are `not-dead`; what nobody knows is `unknown`."""
        broker = broker_case.broker
        hand = Hand(broker=broker, id="w-1")
        await enqueue(broker, task_id="done")
        await hand.end(await hand.take())
        await enqueue(broker, task_id="waits")

        answers = await broker.replay(["done", "waits", "nobody"])

        assert answers == {"done": "not-dead", "waits": "not-dead", "nobody": "unknown"}
        assert len(await hand.fetch()) == 1

    async def test_a_replay_takes_the_unique_key_again(self, broker_case: BrokerCase) -> None:
        """The next of that key is a duplicate of it."""
        broker = broker_case.broker
        await make_dead(broker, task_id="t-1", unique_key="k")

        answers = await broker.replay(["t-1"])
        next_one = await put(broker, new_task("t-2", unique_key="k"))

        assert answers == {"t-1": "queued"}
        assert (next_one.id, next_one.outcome) == ("t-1", "duplicate")

    @pytest.mark.parametrize("way", ["replay", "retry_now"])
    async def test_no_second_task_of_a_unique_key_comes_by_a_replay(self, broker_case: BrokerCase, way: str) -> None:
        """While another one holds the key a dead letter stays one; afterwards only the first of two comes back."""
        broker = broker_case.broker
        hand, revive = Hand(broker=broker, id="w-1"), broker.replay if way == "replay" else broker.retry_now
        for task_id in ("t-1", "t-2"):
            await make_dead(broker, task_id=task_id, unique_key="k")
        await enqueue(broker, task_id="t-3", unique_key="k")

        refused = await revive(["t-1"])
        state = await state_of(broker, "t-1")
        await hand.end(await hand.take())
        answers = await revive(["t-1", "t-2"])

        assert (refused, state) == ({"t-1": "duplicate"}, "failed")
        assert answers == {"t-1": "queued", "t-2": "duplicate"}
        assert [item.id for item in (await broker.census.tasks("dead")).items] == ["t-2"]
        assert [one.id for one in await hand.fetch()] == ["t-1"]

    async def test_discarding_removes_dead_letters_only(self, broker_case: BrokerCase) -> None:
        """Those named, of this queue; the count says how many there were, and a repetition finds none."""
        broker = broker_case.broker
        await make_dead(broker, task_id="t-1")
        await make_dead(broker, task_id="t-2")
        await make_dead(broker, task_id="far", queue="far")
        await enqueue(broker, task_id="waits")

        gone = await broker.discard(QUEUE, ["t-1", "far", "waits", "nobody"])
        again = await broker.discard(QUEUE, ["t-1"])

        assert (gone, again) == (1, 0)
        assert {item.id for item in (await broker.census.tasks("dead")).items} == {"t-2", "far"}
        assert await state_of(broker, "waits") == "queued"

    async def test_purging_the_dead_empties_one_queue(self, broker_case: BrokerCase) -> None:
        """In bounded steps, until it answers 0."""
        broker = broker_case.broker
        for number in range(5):
            await make_dead(broker, task_id=f"t-{number}")
        await make_dead(broker, task_id="far", queue="far")

        steps = [await broker.purge(QUEUE, "dead", limit=2) for _ in range(4)]

        assert steps == [2, 2, 1, 0]
        assert [item.id for item in (await broker.census.tasks("dead")).items] == ["far"]


class BrokerContractWaitingTasks:
    """Moving and removing what waits."""

    async def test_retry_now_makes_waiting_tasks_due(self, broker_case: BrokerCase) -> None:
        """Scheduled and retrying ones at once, a dead one as a replay."""
        broker = broker_case.broker
        hand = Hand(broker=broker, id="undertaker")
        await make_dead(broker, task_id="dead")
        await enqueue(broker, task_id="retries")
        await hand.end(await hand.take(), Outcome.RETRY, delay_ms=LONG_MS)
        await enqueue(broker, task_id="scheduled", delay_ms=LONG_MS)

        answers = await broker.retry_now(["scheduled", "retries", "dead"])
        deliveries = {d.id: d for d in await hand.fetch()}

        assert answers == {"scheduled": "queued", "retries": "queued", "dead": "queued"}
        assert set(deliveries) == {"scheduled", "retries", "dead"}
        assert deliveries["retries"].attempt == 1
        assert deliveries["dead"].attempt == 0

    async def test_retry_now_leaves_the_others_alone(self, broker_case: BrokerCase) -> None:
        """What waits or runs is `already`, what has ended well is `final`, what nobody knows `unknown`."""
        broker = broker_case.broker
        hand = Hand(broker=broker, id="w-1")
        await enqueue(broker, task_id="done")
        await hand.end(await hand.take())
        await enqueue(broker, task_id="runs")
        await hand.take()
        await enqueue(broker, task_id="waits")

        answers = await broker.retry_now(["done", "runs", "waits", "nobody"])

        assert answers == {"done": "final", "runs": "already", "waits": "already", "nobody": "unknown"}
        assert [d.id for d in await hand.fetch()] == ["waits"]

    async def test_retry_now_after_a_lost_reply_makes_no_second_task(self, broker_case: BrokerCase) -> None:
        """The task is there once."""
        broker = broker_case.broker
        await enqueue(broker, task_id="t-1", delay_ms=LONG_MS)

        answers = await broker_case.lose_reply(lambda: broker.retry_now(["t-1"]))

        assert answers["t-1"] in ("queued", "already")
        assert len(await Hand(broker=broker, id="w-1").fetch()) == 1

    async def test_purging_a_queue_revokes_what_waits(self, broker_case: BrokerCase) -> None:
        """Ready, delayed, retrying and held ones end as revoked; what runs goes on; keys are released."""
        broker = broker_case.broker
        hand = Hand(broker=broker, id="w-1")
        await enqueue(broker, task_id="retries")
        await hand.end(await hand.take(), Outcome.RETRY, delay_ms=LONG_MS)
        await enqueue(broker, task_id="runs")
        running = await hand.take()
        await enqueue(broker, task_id="held", task="paused")
        await Operator(broker).issue("pause", SetPause(kind="task", targets=["paused"]))
        await hand.catch_up()
        await hand.fetch()
        await enqueue(broker, task_id="ready", unique_key="k")
        await enqueue(broker, task_id="delayed", delay_ms=LONG_MS)
        await enqueue(broker, task_id="far", queue="far")

        gone = 0
        while step := await broker.purge(QUEUE, "waiting"):
            gone += step

        states = [await state_of(broker, one) for one in ("ready", "delayed", "retries", "held", "runs", "far")]
        assert gone == 4
        assert states == ["revoked", "revoked", "revoked", "revoked", "running", "queued"]
        assert list(await hand.fetch()) == []
        assert await hand.end(running) == "applied"
        assert (await put(broker, new_task(unique_key="k"))).outcome == "queued"

    async def test_a_purged_task_keeps_its_end_and_not_its_body(self, broker_case: BrokerCase) -> None:
        """A full server is purged for its memory; an enqueue that is repeated later finds the task all the same."""
        broker = broker_case.broker
        task = new_task()
        await broker.enqueue([task])

        assert await broker.purge(QUEUE, "waiting") == 1

        assert await broker.body(task.id) is None
        assert await state_of(broker, task.id) == "revoked"
        assert (await put(broker, task)).outcome == "exists"
        assert (await put(broker, new_task(task.id, args={"other": 1}))).outcome == "exists"

    async def test_purging_is_bounded(self, broker_case: BrokerCase) -> None:
        """At most `limit` at a time, then again until 0."""
        broker = broker_case.broker
        await broker.enqueue([new_task(priority=number % 3) for number in range(7)])

        steps = [await broker.purge(QUEUE, "waiting", limit=3) for _ in range(4)]

        assert steps == [3, 3, 1, 0]

    async def test_purging_an_unknown_queue_finds_nothing(self, broker_case: BrokerCase) -> None:
        """And does not make it known."""
        assert await broker_case.broker.purge("never", "waiting") == 0
        assert await broker_case.broker.purge("never", "dead") == 0
        assert list(await broker_case.broker.census.queues()) == []

    @pytest.mark.parametrize("how", ["whole", "fields"])
    async def test_a_broken_record_stops_no_purge(self, broker_case: BrokerCase, how: Corruption) -> None:
        """The others go, and it ends."""
        broker = broker_case.broker
        await broker.enqueue([new_task("a"), new_task("broken"), new_task("z"), new_task("later", delay_ms=LONG_MS)])
        await broker_case.corrupt("broken", how)

        steps = [await broker.purge(QUEUE, "waiting") for _ in range(4)]

        assert steps[0] >= 3
        assert steps[-1] == 0
        assert [await state_of(broker, one) for one in ("a", "z", "later")] == ["revoked"] * 3

    @pytest.mark.parametrize("how", ["whole", "fields"])
    async def test_a_broken_record_stops_no_other_command(self, broker_case: BrokerCase, how: Corruption) -> None:
        """Revoke, retry now, replay and reconcile answer for the others."""
        broker = broker_case.broker
        await broker.enqueue([new_task("broken"), new_task("a", delay_ms=LONG_MS)])
        await make_dead(broker, task_id="dead", queue="other")
        await broker_case.corrupt("broken", how)

        now = await broker.retry_now(["broken", "a"])
        replayed = await broker.replay(["broken", "dead"])
        await _whole_round(broker_case)
        issued = await Operator(broker).issue("revoke", RevokeTasks(ids=["broken", "a", "dead"]))

        assert now["a"] == "queued"
        assert replayed["dead"] == "queued"
        assert [(i.target, i.outcome) for i in issued.items][1:] == [("a", "revoked"), ("dead", "revoked")]

    async def test_reconciling_a_healthy_broker_repairs_nothing(self, broker_case: BrokerCase) -> None:
        """The round ends with the cursor 0, and no task is doubled."""
        broker = broker_case.broker
        hand = Hand(broker=broker, id="undertaker")
        await make_dead(broker, task_id="dead")
        await enqueue(broker)
        await hand.take()
        await enqueue(broker)
        await enqueue(broker, delay_ms=LONG_MS)

        cursor, repaired = await _whole_round(broker_case)

        assert (cursor, repaired) == ("0", 0)
        assert len(await hand.fetch()) == 1

    async def test_reconciling_finds_a_task_that_stands_nowhere(self, broker_case: BrokerCase) -> None:
        """A task whose queue was lost, but not its record, waits again."""
        broker = broker_case.broker
        await enqueue(broker, task_id="t-1")
        await enqueue(broker, task_id="t-2", delay_ms=20)
        await broker_case.misplace("t-1", QUEUE)
        await broker_case.misplace("t-2", QUEUE)
        await broker_case.advance(0.04)
        hand = Hand(broker=broker, id="w-1")

        _, repaired = await _whole_round(broker_case)

        assert repaired == 2
        assert {d.id for d in await hand.fetch()} == {"t-1", "t-2"}
        assert (await status_of(broker, "t-1")).token == 1


async def _whole_round(case: BrokerCase) -> tuple[str, int]:
    cursor, total = "0", 0
    for _ in range(1_000):
        cursor, repaired = await case.broker.reconcile(cursor)
        total += repaired
        if cursor == "0":
            break
    return cursor, total
