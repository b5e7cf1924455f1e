"""The contract of observing: events, counts, listings, history, minutes, the server, and the result backend."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any, cast

import pytest

from stem.contracts import ListState, Measured, Outcome, ResultBackend
from stem.errors import InvalidInputError
from stem.messages.status import ErrorInfo, TaskState, TaskStatus
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
        """What cannot be read is passed over."""
        events = broker_case.broker.events
        await events.watch("screen", for_ms=60_000)
        cursor = await events.tail()
        await events.emit([replace(event(1), worker=cast(Any, 5))])
        await events.emit([event(2)])

        got, _ = await _read(broker_case, cursor, 1)

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

            assert await listener.control.wake(4.0) is True
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


async def _read(case: BrokerCase, cursor: str, count: int) -> tuple[list[Any], str]:
    got: list[Any] = []

    async def enough() -> bool:
        nonlocal cursor
        batch = await case.broker.events.read(cursor, timeout_s=0.5)
        assert not batch.missed
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

    async def test_the_server_tells_about_itself(self, broker_case: BrokerCase) -> None:
        """Kind, version, namespace and time; it proves that it takes writes; no secret in its address."""
        info = await broker_case.broker.census.info()

        assert info.kind
        assert info.version
        assert info.namespace == broker_case.broker.namespace
        assert info.writable is True
        assert abs(info.now_ms - await now_ms(broker_case.broker)) < 10_000
        assert "@" not in info.url


class BrokerContractListings:
    """Pages of tasks."""

    async def test_waiting_tasks_are_listed_in_the_order_they_will_run(self, broker_case: BrokerCase) -> None:
        """Priority 9 first, then as they came; what runs is not among them."""
        await enqueue(broker_case.broker, task_id="runs")
        await Hand(broker=broker_case.broker, id="w-1").take()
        await broker_case.broker.enqueue(
            [new_task("a"), new_task("b", priority=9), new_task("c"), new_task("d", priority=5)]
        )

        page = await broker_case.broker.census.tasks("queued", queue=QUEUE)

        assert [item.id for item in page.items] == ["b", "d", "a", "c"]
        assert {item.state for item in page.items} == {TaskState.QUEUED}
        assert page.next is None

    @pytest.mark.parametrize("state", ["queued", "scheduled", "running", "retrying", "dead", "succeeded", "failed"])
    async def test_a_listing_goes_on_page_by_page(self, broker_case: BrokerCase, state: ListState) -> None:
        """Following the cursor gives every task once, over several queues, with pages of at most `limit`."""
        want = await _seven_of(broker_case, state)
        pages: list[str] = []
        cursor: str | None = None
        for _ in range(20):
            page = await broker_case.broker.census.tasks(state, cursor=cursor, limit=3)
            assert len(page.items) <= 3
            pages.extend(item.id for item in page.items)
            cursor = page.next
            if cursor is None:
                break

        assert sorted(pages) == sorted(want)

    @pytest.mark.parametrize("state", ["queued", "scheduled", "running", "retrying", "held", "dead", "succeeded"])
    @pytest.mark.parametrize(
        "cursor",
        ["", "nonsense", "9" * 400, "1:2:3:4:5", "\x00\xff", "-1"],
        ids=["empty", "word", "huge", "parts", "bytes", "negative"],
    )
    async def test_a_cursor_from_elsewhere_is_refused(
        self, broker_case: BrokerCase, state: ListState, cursor: str
    ) -> None:
        """By name, not by a wrong page or a crash."""
        await _seven_of(broker_case, "queued")

        with pytest.raises(InvalidInputError):
            await broker_case.broker.census.tasks(state, cursor=cursor)

    async def test_a_listing_may_be_of_one_queue(self, broker_case: BrokerCase) -> None:
        """And knows its total, where counting is cheap."""
        await broker_case.broker.enqueue(
            [new_task("a-1", queue="a"), new_task("b-1", queue="b"), new_task("a-2", queue="a")]
        )

        page = await broker_case.broker.census.tasks("queued", queue="a")

        assert [item.id for item in page.items] == ["a-1", "a-2"]
        assert page.total in (2, None)
        assert all(item.timeline == () for item in page.items)

    async def test_an_unknown_queue_lists_nothing(self, broker_case: BrokerCase) -> None:
        """Nobody is surprised by an error."""
        page = await broker_case.broker.census.tasks("queued", queue="never")

        assert (list(page.items), page.next) == ([], None)

    async def test_scheduled_tasks_are_listed_by_time(self, broker_case: BrokerCase) -> None:
        """The next one first, with its time."""
        for task_id, delay_ms in (("late", LONG_MS + 2_000), ("early", LONG_MS), ("middle", LONG_MS + 1_000)):
            await enqueue(broker_case.broker, task_id=task_id, delay_ms=delay_ms)

        page = await broker_case.broker.census.tasks("scheduled", queue=QUEUE)

        assert [item.id for item in page.items] == ["early", "middle", "late"]
        assert all(item.due_at_ms for item in page.items)

    async def test_running_tasks_are_listed_by_the_end_of_their_lease(self, broker_case: BrokerCase) -> None:
        """The one in the greatest danger first, with its worker."""
        hand = Hand(broker=broker_case.broker, id="w-1")
        for task_id, lease_ms in (("long", 90_000), ("short", 30_000), ("middle", 60_000)):
            await enqueue(broker_case.broker, task_id=task_id, lease_ms=lease_ms)
        await hand.fetch()

        page = await broker_case.broker.census.tasks("running", queue=QUEUE)

        assert [(item.id, item.worker) for item in page.items] == [("short", "w-1"), ("middle", "w-1"), ("long", "w-1")]

    async def test_final_tasks_are_listed_newest_first(self, broker_case: BrokerCase) -> None:
        """By state, from history."""
        hand = Hand(broker=broker_case.broker, id="w-1")
        for number in range(3):
            await enqueue(broker_case.broker, task_id=f"t-{number}")
            await hand.end(await hand.take())
        await enqueue(broker_case.broker, task_id="x")
        await hand.end(await hand.take(), Outcome.EXPIRED)
        census = broker_case.broker.census

        assert [item.id for item in (await census.tasks("succeeded")).items] == ["t-2", "t-1", "t-0"]
        assert [item.id for item in (await census.tasks("expired")).items] == ["x"]
        assert list((await census.tasks("revoked")).items) == []


async def _seven_of(case: BrokerCase, state: ListState) -> list[str]:
    """Bring seven tasks of two queues into a state."""
    hand = Hand(broker=case.broker, id="w-1", queues=["a", "b"])
    delay_ms = LONG_MS if state == "scheduled" else None
    ids = [f"t-{number}" for number in range(7)]
    await case.broker.enqueue(
        [new_task(one, queue="ab"[n % 2], priority=n % 3, delay_ms=delay_ms) for n, one in enumerate(ids)]
    )
    if state in ("queued", "scheduled"):
        return ids
    deliveries = await hand.fetch()
    if state != "running":
        outcome = {"retrying": Outcome.RETRY, "dead": Outcome.DEAD, "failed": Outcome.DEAD}.get(
            state, Outcome.SUCCEEDED
        )
        await hand.settle(*(settlement(d, outcome, delay_ms=LONG_MS) for d in deliveries))
    return ids


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


class ResultBackendContract:
    """A copy of final statuses on a server of its own. The adapter's tests give the fixture `result_backend`.

    Time is real here: what expires does so after some tens of milliseconds.
    """

    async def test_a_status_comes_back_as_it_was_stored(self, result_backend: ResultBackend) -> None:
        """With result, error, meta and timeline; an unknown one is None."""
        status = final("t-1", token=2, result={"a": [1, b"\x00"]}, meta={"k": 1})

        assert await result_backend.store(status, ttl_ms=60_000) is True
        assert await result_backend.get("t-1") == status
        assert await result_backend.get("t-2") is None

    async def test_the_higher_token_wins(self, result_backend: ResultBackend) -> None:
        """A worker that was fenced off cannot overwrite what its successor stored."""
        await result_backend.store(final("t-1", token=2, result="two"), ttl_ms=60_000)

        older = await result_backend.store(final("t-1", token=1, result="one"), ttl_ms=60_000)
        kept = await result_backend.get("t-1")
        newer = await result_backend.store(final("t-1", token=10, result="ten"), ttl_ms=60_000)
        last = await result_backend.get("t-1")

        assert (older, newer) == (False, True)
        assert kept is not None
        assert last is not None
        assert (kept.result, last.result) == ("two", "ten")

    async def test_of_equal_tokens_the_first_wins(self, result_backend: ResultBackend) -> None:
        """A final state is not overwritten."""
        await result_backend.store(final("t-1", token=1, result="first"), ttl_ms=60_000)
        failed = replace(final("t-1", token=1), state=TaskState.FAILED, error=ErrorInfo(type="E", message="m"))

        assert await result_backend.store(failed, ttl_ms=60_000) is False
        kept = await result_backend.get("t-1")
        assert kept is not None
        assert kept.result == "first"

    async def test_a_result_is_forgotten_after_its_time(self, result_backend: ResultBackend) -> None:
        """And the next one is stored as if there had been none."""
        await result_backend.store(final("t-1", token=5), ttl_ms=30)

        async def gone() -> bool:
            return await result_backend.get("t-1") is None

        assert await until(gone, what="the result was forgotten")
        assert await result_backend.store(final("t-1", token=1), ttl_ms=60_000) is True

    async def test_closing_twice_is_safe(self, result_backend: ResultBackend) -> None:
        """As for a broker."""
        await result_backend.store(final("t-1", token=1), ttl_ms=60_000)

        await result_backend.close()
        await result_backend.close()


def final(task_id: str, *, token: int, **set_: Any) -> TaskStatus:
    """Return a status that has ended well."""
    return TaskStatus(
        id=task_id, task="job", queue=QUEUE, state=TaskState.SUCCEEDED, token=token, finished_at_ms=1_000, **set_
    )
