"""The contract of observing: events, counts, listings, history, minutes, the server, and the result backend."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any, cast

from stem.contracts import Measured, Outcome
from stem.testing.case import (
    LONG_MS,
    QUEUE,
    BrokerCase,
    Hand,
    enqueue,
    event,
    make_dead,
    new_task,
    now_ms,
    settlement,
    until,
)


class BrokerContractEvents:
    """Events while somebody watches."""

    async def test_a_reader_gets_what_was_emitted_after_its_cursor(self, broker_case: BrokerCase) -> None:
        """In order, across batches, each once."""
        events = broker_case.broker.events
        await events.watch("screen", for_ms=60_000)
        await events.emit([event(0)])
        cursor = await events.tail()
        sent = [event(1, task_id="t-1", detail={"n": 1}), event(2, kind="later.kind"), event(3)]
        await events.emit(sent[:2])
        await events.emit(sent[2:])

        got, cursor = await _read(broker_case, cursor, 3)

        assert got == sent
        assert await _nothing(broker_case, cursor)

    async def test_reading_waits_for_the_next_event(self, broker_case: BrokerCase) -> None:
        """It ends soon after the event came, not at its timeout."""
        events = broker_case.broker.events
        clone = broker_case.broker.clone()
        try:
            await events.watch("screen", for_ms=60_000)
            cursor = await events.tail()
            reading = asyncio.create_task(clone.events.read(cursor, timeout_s=5.0))
            await asyncio.sleep(0.05)
            began = time.monotonic()

            await events.emit([event(1)])
            batch = await reading

            assert list(batch.events) == [event(1)]
            assert time.monotonic() - began < 2.0
        finally:
            await clone.close()

    async def test_reading_nothing_keeps_the_cursor_good(self, broker_case: BrokerCase) -> None:
        """A timeout is an empty batch, from which reading goes on without a gap."""
        events = broker_case.broker.events
        await events.watch("screen", for_ms=60_000)
        batch = await events.read(await events.tail(), timeout_s=0.03)
        await events.emit([event(1)])

        got, _ = await _read(broker_case, batch.cursor, 1)

        assert (list(batch.events), batch.missed, got) == ([], False, [event(1)])

    async def test_two_readers_see_the_same(self, broker_case: BrokerCase) -> None:
        """A reader takes nothing away from another."""
        events = broker_case.broker.events
        await events.watch("one", for_ms=60_000)
        cursor = await events.tail()
        await events.emit([event(1), event(2)])

        first, _ = await _read(broker_case, cursor, 2)
        second, _ = await _read(broker_case, cursor, 2)

        assert first == second == [event(1), event(2)]

    async def test_an_ill_formed_batch_hides_no_other(self, broker_case: BrokerCase) -> None:
        """What cannot be read is passed over; saying that something was missed is allowed."""
        events = broker_case.broker.events
        await events.watch("screen", for_ms=60_000)
        cursor = await events.tail()
        await events.emit([replace(event(1), worker=cast(Any, 5))])
        await events.emit([event(2)])

        got, _ = await _read(broker_case, cursor, 1, whole=False)

        assert got == [event(2)]

    async def test_a_watch_lease_is_seen_by_workers_until_it_ends(self, broker_case: BrokerCase) -> None:
        """Taken, given back, and run out."""
        hand, events = Hand(broker=broker_case.broker, id="w-1"), broker_case.broker.events
        seen = [(await hand.beat()).watched]
        await events.watch("one", for_ms=60_000)
        await events.watch("two", for_ms=60_000)
        seen.append((await hand.beat()).watched)
        await events.unwatch("one")
        seen.append((await hand.beat()).watched)
        await events.unwatch("two")
        await events.unwatch("never")
        seen.append((await hand.beat()).watched)
        await events.watch("three", for_ms=30)
        await broker_case.advance(0.05)
        seen.append((await hand.beat()).watched)

        assert seen == [False, True, True, False, False]

    async def test_the_first_watcher_wakes_the_workers(self, broker_case: BrokerCase) -> None:
        """So that events begin at once, not with the next beat."""
        listener = broker_case.broker.clone()
        try:
            await listener.control.subscribe()

            await broker_case.broker.events.watch("screen", for_ms=60_000)

            assert await listener.control.wake(4.0) is not None
        finally:
            await listener.close()

    async def test_a_reader_that_was_away_knows_that_it_missed_something(self, broker_case: BrokerCase) -> None:
        """Events are kept for a minute."""
        broker_case.needs_hours()
        events = broker_case.broker.events
        await events.watch("screen", for_ms=600_000)
        await events.emit([event(0)])
        cursor = await events.tail()
        await events.emit([event(1)])
        await broker_case.advance(90)
        await events.emit([event(2)])

        batch = await events.read(cursor, timeout_s=0.1)

        assert batch.missed is True
        assert list(batch.events) == [event(2)]

    async def test_an_empty_batch_is_nothing(self, broker_case: BrokerCase) -> None:
        """Emitting nothing writes nothing."""
        events = broker_case.broker.events
        await events.watch("screen", for_ms=60_000)
        cursor = await events.tail()

        await events.emit([])

        assert await _nothing(broker_case, cursor)

    async def test_many_events_at_once_are_all_told(self, broker_case: BrokerCase) -> None:
        """Though they are more than one message may hold; one that is too large by itself is left out."""
        events = broker_case.broker.events
        await events.watch("screen", for_ms=60_000)
        cursor = await events.tail()
        detail = {"error": "ValueError", "message": "no such customer, and nobody to ask", "next_at_ms": 2_000}
        sent = [event(n, kind="task.retried", task_id=f"t-{n}", detail=detail) for n in range(10_000)]

        await events.emit([*sent[:5_000], event(0, detail={"message": "x" * 1_100_000}), *sent[5_000:]])

        got, cursor = await _read(broker_case, cursor, len(sent))
        assert got == sent
        assert await _nothing(broker_case, cursor)


async def _read(case: BrokerCase, cursor: str, count: int, *, whole: bool = True) -> tuple[list[Any], str]:
    """Read until `count` events came; `whole` also asserts that none was missed."""
    got: list[Any] = []

    async def enough() -> bool:
        nonlocal cursor
        batch = await case.broker.events.read(cursor, timeout_s=0.5)
        assert not (whole and batch.missed)
        cursor = batch.cursor
        got.extend(batch.events)
        return len(got) >= count

    await until(enough, what=f"{count} events were read")
    return got, cursor


async def _nothing(case: BrokerCase, cursor: str) -> bool:
    batch = await case.broker.events.read(cursor, timeout_s=0.03)
    return list(batch.events) == [] and not batch.missed


class BrokerContractCounts:
    """Queue rows."""

    async def test_a_queue_is_counted_by_state(self, broker_case: BrokerCase) -> None:
        """Ready, delayed, retrying, in flight and dead, each where it is."""
        broker = broker_case.broker
        hand = Hand(broker=broker, id="undertaker")
        await make_dead(broker)
        await enqueue(broker)
        await hand.end(await hand.take(), Outcome.RETRY, delay_ms=LONG_MS)
        await enqueue(broker)
        await hand.take()
        await broker.enqueue([new_task(), new_task(priority=9), new_task(delay_ms=LONG_MS)])

        (row,) = await broker.census.queues()

        assert (row.name, row.ready, row.delayed, row.retrying, row.in_flight, row.dead, row.held) == (
            QUEUE,
            2,
            1,
            1,
            1,
            1,
            0,
        )
        assert row.enqueued_total == 6
        assert row.pause is None

    async def test_queues_are_listed_by_name(self, broker_case: BrokerCase) -> None:
        """All known ones, or those of the names given that are known."""
        for queue in ("b", "c", "a"):
            await enqueue(broker_case.broker, queue=queue)
        census = broker_case.broker.census

        assert [row.name for row in await census.queues()] == ["a", "b", "c"]
        assert [row.name for row in await census.queues(["c", "never", "a"])] == ["a", "c"]

    async def test_a_queue_stays_known_when_it_is_empty(self, broker_case: BrokerCase) -> None:
        """With nothing in it."""
        hand = Hand(broker=broker_case.broker, id="w-1")
        await enqueue(broker_case.broker)
        await hand.end(await hand.take())

        (row,) = await broker_case.broker.census.queues()

        assert (row.ready, row.in_flight, row.oldest_ms, row.enqueued_total) == (0, 0, None, 1)

    async def test_the_age_of_the_oldest_ready_task_is_told(self, broker_case: BrokerCase) -> None:
        """Of those that wait, not of those that run or are delayed."""
        hand = Hand(broker=broker_case.broker, id="w-1")
        await enqueue(broker_case.broker)
        await hand.take()
        await enqueue(broker_case.broker, delay_ms=LONG_MS)
        (none,) = await broker_case.broker.census.queues()
        await enqueue(broker_case.broker)
        await broker_case.advance(0.05)
        await enqueue(broker_case.broker)

        (row,) = await broker_case.broker.census.queues()

        assert none.oldest_ms is None
        assert row.oldest_ms is not None
        assert 45 <= row.oldest_ms < 30_000

    async def test_what_is_due_is_counted_as_ready(self, broker_case: BrokerCase) -> None:
        """Also where no worker fetches: what lies ahead alone is delayed or retrying."""
        broker, hand = broker_case.broker, Hand(broker=broker_case.broker, id="w-1")
        for delay_ms in (LONG_MS, 50):
            await enqueue(broker)
            await hand.end(await hand.take(), Outcome.RETRY, delay_ms=delay_ms)
        await broker.enqueue([new_task(delay_ms=20), new_task(delay_ms=30), new_task(delay_ms=LONG_MS)])
        await enqueue(broker)
        await broker_case.advance(0.1)

        (row,) = await broker.census.queues()

        assert (row.ready, row.delayed, row.retrying, row.in_flight) == (4, 1, 1, 0)

    async def test_a_due_task_is_as_old_as_its_time_is_past(self, broker_case: BrokerCase) -> None:
        """The oldest one may be one that nobody has fetched since it was due."""
        broker = broker_case.broker
        await enqueue(broker, delay_ms=60)
        await broker_case.advance(0.2)
        await enqueue(broker)

        (row,) = await broker.census.queues()

        assert row.oldest_ms is not None
        assert 135 <= row.oldest_ms < 30_000

    async def test_live_workers_are_counted_as_consumers(self, broker_case: BrokerCase) -> None:
        """Those whose heartbeat names the queue; not the ones that said goodbye."""
        broker = broker_case.broker
        await enqueue(broker, queue="a")
        await enqueue(broker, queue="b")
        await Hand(broker=broker, id="w-1", queues=["a", "b"]).beat()
        await Hand(broker=broker, id="w-2", queues=["a"]).beat()
        gone = Hand(broker=broker, id="w-3", queues=["a"])
        await gone.beat()
        await gone.beat(state="stopped")

        assert {row.name: row.consumers for row in await broker.census.queues()} == {"a": 2, "b": 1}
        workers = await broker.presence.workers()
        assert {row.name: row.consumers for row in await broker.census.queues(workers=workers)} == {"a": 2, "b": 1}

    async def test_the_server_tells_about_itself(self, broker_case: BrokerCase) -> None:
        """Kind, version, namespace and time; it proves that it takes writes; no secret in its address."""
        info = await broker_case.broker.census.info()

        assert info.kind
        assert info.version
        assert info.namespace == broker_case.broker.namespace
        assert info.writable is True
        assert abs(info.now_ms - await now_ms(broker_case.broker)) < 10_000
        assert "@" not in info.url


class BrokerContractRedaction:
    """Which arguments workers want hidden."""

    async def test_what_workers_hide_is_kept_by_task_name(self, broker_case: BrokerCase) -> None:
        """Of all of them, sorted; of other names nothing."""
        await Hand(broker=broker_case.broker, id="w-1").beat(redacted={"a/b:c": ["pin", "card.number"], "mail": ["to"]})
        await Hand(broker=broker_case.broker, id="w-2").beat(redacted={"a/b:c": ["pin", "a name"]})
        await Hand(broker=broker_case.broker, id="w-2").beat()

        census = broker_case.broker.census

        assert await census.redacted("a/b:c") == ("a name", "card.number", "pin")
        assert (await census.redacted("mail"), await census.redacted("other")) == (("to",), ())

    async def test_what_was_hidden_stays_hidden(self, broker_case: BrokerCase) -> None:
        """Also when its worker has gone, and another one of the same task hides less: its tasks are still there."""
        one, two = (Hand(broker=broker_case.broker, id=name) for name in ("w-1", "w-2"))
        await one.beat(redacted={"mail": ["to"]})
        await one.beat(state="stopped")
        await two.beat(redacted={"mail": ["cc"]})

        assert await broker_case.broker.census.redacted("mail") == ("cc", "to")

    async def test_what_is_kept_is_bounded(self, broker_case: BrokerCase) -> None:
        """In 20 000 characters of a task."""
        hand = Hand(broker=broker_case.broker, id="w-1")
        for turn in range(3):
            await hand.beat(redacted={"mail": [f"{turn}-{n}".ljust(200, "x") for n in range(100)]})

        kept = await broker_case.broker.census.redacted("mail")

        assert 90 <= len(kept) <= 100
        assert sum(map(len, kept)) <= 20_000


class BrokerContractHistory:
    """What happened."""

    async def test_history_has_a_row_for_every_end(self, broker_case: BrokerCase) -> None:
        """Newest first, with names, times and the type of the error; also when the record is forgotten."""
        hand = Hand(broker=broker_case.broker, id="w-1")
        await enqueue(broker_case.broker, task_id="good", task="a/b:c", queue="mail")
        good = await hand.take(queues=["mail"])
        await hand.end(good, ttl_ms=1)
        await enqueue(broker_case.broker, task_id="bad")
        await hand.end(await hand.take(), Outcome.RETRY)
        await hand.end(await hand.take(), Outcome.DEAD, error_type="KeyError")

        bad_row, good_row = await broker_case.broker.census.history()

        assert (good_row.id, good_row.task, good_row.queue, good_row.state) == ("good", "a/b:c", "mail", "succeeded")
        assert (good_row.worker, good_row.error_type) == ("w-1", "")
        assert (good_row.enqueued_at_ms, good_row.started_at_ms) == (good.enqueued_at_ms, good.started_at_ms)
        assert good_row.finished_at_ms >= good_row.started_at_ms
        assert (bad_row.id, bad_row.state, bad_row.attempt, bad_row.error_type) == ("bad", "failed", 1, "KeyError")

    async def test_history_has_at_most_what_was_asked_for(self, broker_case: BrokerCase) -> None:
        """The newest ones."""
        hand = Hand(broker=broker_case.broker, id="w-1")
        await broker_case.broker.enqueue([new_task(f"t-{n}") for n in range(5)])
        for delivery in await hand.fetch():
            await hand.end(delivery)

        assert [row.id for row in await broker_case.broker.census.history(2)] == ["t-4", "t-3"]

    async def test_a_repeated_settlement_makes_no_second_row(self, broker_case: BrokerCase) -> None:
        """Neither in history nor in the counts."""
        hand = Hand(broker=broker_case.broker, id="w-1")
        await enqueue(broker_case.broker)
        end = settlement(await hand.take())

        await broker_case.lose_reply(lambda: hand.settle(end))

        assert len(await broker_case.broker.census.history()) == 1
        assert (await _counted(broker_case))["succeeded"] == 1

    async def test_outcomes_are_counted_by_the_minute(self, broker_case: BrokerCase) -> None:
        """Exactly, per queue and task, with the start of the minute."""
        hand = Hand(broker=broker_case.broker, id="w-1")
        await broker_case.broker.enqueue([new_task(task="x") for _ in range(5)])
        await enqueue(broker_case.broker, task="x", expires_in_ms=1)
        await broker_case.advance(0.02)
        one, two, three, four, five = await hand.fetch()
        await hand.settle(
            settlement(one),
            settlement(two, Outcome.DEAD),
            settlement(three, Outcome.RETRY, delay_ms=LONG_MS),
            settlement(four, Outcome.REVOKED),
            settlement(five, Outcome.GIVE_BACK),
        )

        rows = await broker_case.broker.census.minutes(3)
        counted = await _counted(broker_case)

        assert {(row.queue, row.task) for row in rows} == {(QUEUE, "x")}
        assert all(row.at_ms % 60_000 == 0 for row in rows)
        assert counted == {
            "enqueued": 6,
            "succeeded": 1,
            "failed": 1,
            "retried": 1,
            "revoked": 1,
            "expired": 1,
            "crashed": 0,
            "handed_back": 1,
        }

    async def test_what_workers_measured_is_added_up(self, broker_case: BrokerCase) -> None:
        """Counts, sums and buckets of all workers, per queue and task."""
        for worker in ("w-1", "w-2"):
            measured = Measured(queue=QUEUE, task="x", count=2, wait_ms=30, run_ms=400, buckets={3: 1, 9: 1})
            await Hand(broker=broker_case.broker, id=worker).beat(measured=[measured])

        rows = [row.measured for row in await broker_case.broker.census.minutes(3) if row.measured]

        assert sum(row.count for row in rows) == 4
        assert sum(row.wait_ms for row in rows) == 60
        assert sum(row.run_ms for row in rows) == 800
        assert sum(row.buckets.get(9, 0) for row in rows) == 2

    async def test_many_names_are_counted_in_bounded_room(self, broker_case: BrokerCase) -> None:
        """200 by themselves, and those wholly, whatever else happens to them; the others of a queue together."""
        hand = Hand(broker=broker_case.broker, id="w-1", queues=["crowd"])
        await broker_case.broker.enqueue([new_task(task=f"name-{n}", queue="crowd") for n in range(250)])
        deliveries = await hand.fetch(250)
        await hand.settle(*(settlement(delivery) for delivery in deliveries))
        measured = [
            Measured(queue="crowd", task=f"name-{n}", count=1, wait_ms=1, run_ms=1, buckets={1: 1}) for n in range(250)
        ]
        await hand.beat(measured=measured)

        rows = await broker_case.broker.census.minutes(3)

        told = [row.measured for row in rows if row.measured is not None]
        assert sum(row.counts.get("enqueued", 0) for row in rows) == 250
        assert sum(row.counts.get("succeeded", 0) for row in rows) == 250
        assert sum(row.count for row in told) == sum(row.buckets[1] for row in told) == 250
        for minute in {row.at_ms for row in rows}:
            names = {row.task for row in rows if row.at_ms == minute}
            assert len(names) <= 201
        if len({row.at_ms for row in rows}) == 1:  # else the minute ended meanwhile
            apart = [row for row in rows if row.task != "~other"]
            assert len(apart) == 200
            assert all((row.counts.get("succeeded"), row.measured is not None) == (1, True) for row in apart)

    async def test_minutes_come_oldest_first(self, broker_case: BrokerCase) -> None:
        """Those of the last `count` minutes only."""
        broker_case.needs_hours()
        for _ in range(4):
            await enqueue(broker_case.broker)
            await broker_case.advance(60)
        await enqueue(broker_case.broker)

        rows = await broker_case.broker.census.minutes(3)

        assert len(rows) == 3
        assert [row.at_ms for row in rows] == sorted(row.at_ms for row in rows)


async def _counted(case: BrokerCase) -> dict[str, int]:
    """Sum the counts of the last minutes (the test may run over the end of one)."""
    names = ("enqueued", "succeeded", "failed", "retried", "revoked", "expired", "crashed", "handed_back")
    rows = await case.broker.census.minutes(3)
    return {name: sum(row.counts.get(name, 0) for row in rows) for name in names}
