"""The contract of waiting: for the end of a task, and of an idle worker for something to do; and of further handles."""

from __future__ import annotations

import asyncio
import time

import pytest

from stem.contracts import Outcome
from stem.messages.codec import pack
from stem.testing.case import (
    LONG_MS,
    PATIENCE_S,
    QUEUE,
    BrokerCase,
    Hand,
    Operator,
    enqueue,
    make_dead,
    new_task,
    state_of,
    status_of,
    sweep_until,
)

IDLE_S: float = 2.0
"""How long an idle worker sleeps that nothing wakes: no adapter need let it sleep longer."""
WOKEN_S: float = 1.9
"""Who slept less was woken."""


class BrokerContractIdle:
    """Sleeping until there is something to fetch."""

    async def test_an_idle_worker_is_woken_by_a_task(self, broker_case: BrokerCase) -> None:
        """`idle` ends soon after the enqueue, long before its timeout."""
        began = time.monotonic()
        waiting = asyncio.create_task(broker_case.broker.idle([QUEUE, "other"], IDLE_S))
        await asyncio.sleep(0.05)

        await enqueue(broker_case.broker)
        await waiting

        assert time.monotonic() - began < WOKEN_S

    async def test_an_idle_worker_sees_a_task_that_came_before_it_slept(self, broker_case: BrokerCase) -> None:
        """Nothing is missed between the fetch that found nothing and the sleep."""
        await enqueue(broker_case.broker)
        began = time.monotonic()

        await broker_case.broker.idle([QUEUE], IDLE_S)

        assert time.monotonic() - began < WOKEN_S

    async def test_idle_ends_after_its_timeout(self, broker_case: BrokerCase) -> None:
        """Also when nothing comes."""
        await asyncio.wait_for(broker_case.broker.idle([QUEUE], 0.05), 5)

    async def test_one_task_wakes_one_idle_worker(self, broker_case: BrokerCase) -> None:
        """The others sleep on."""
        clones = [broker_case.broker.clone() for _ in range(3)]
        try:
            sleepers = [asyncio.create_task(clone.idle([QUEUE], IDLE_S)) for clone in clones]
            await asyncio.sleep(0.1)

            await enqueue(broker_case.broker)
            await asyncio.wait(sleepers, timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
            done, asleep = await asyncio.wait(sleepers, timeout=0.3)

            assert (len(done), len(asleep)) == (1, 2)
            for sleeper in asleep:
                sleeper.cancel()
            await asyncio.gather(*asleep, return_exceptions=True)
        finally:
            for clone in clones:
                await clone.close()

    async def test_idle_ends_without_a_queue(self, broker_case: BrokerCase) -> None:
        """A worker all of whose queues are paused sleeps its time out."""
        await asyncio.wait_for(broker_case.broker.idle([], 0.03), 5)

    async def test_a_cancelled_sleep_swallows_no_task(self, broker_case: BrokerCase) -> None:
        """A worker that stops sleeping leaves the wake-up and the task to the others."""
        sleeper = asyncio.create_task(broker_case.broker.idle([QUEUE], IDLE_S))
        await asyncio.sleep(0.05)
        sleeper.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sleeper
        other = broker_case.broker.clone()
        try:
            waiting = asyncio.create_task(other.idle([QUEUE], IDLE_S))
            await asyncio.sleep(0.05)
            await enqueue(broker_case.broker, task_id="t-1")
            await waiting
        finally:
            await other.close()

        assert (await Hand(broker=broker_case.broker, id="w-1").take()).id == "t-1"

    async def test_who_takes_a_part_of_a_burst_wakes_the_next(self, broker_case: BrokerCase) -> None:
        """A burst rings once: what its first taker leaves is not left to those who sleep."""
        await broker_case.broker.enqueue([new_task() for _ in range(3)])
        await broker_case.broker.idle([QUEUE], IDLE_S)  # takes the ring of the burst
        began = time.monotonic()
        waiting = asyncio.create_task(broker_case.broker.idle([QUEUE], IDLE_S))
        await asyncio.sleep(0.05)

        await Hand(broker=broker_case.broker, id="w-1").take()
        await waiting

        assert time.monotonic() - began < WOKEN_S

    async def test_a_task_that_is_due_before_all_others_is_announced(self, broker_case: BrokerCase) -> None:
        """An idle worker sleeps until the earliest time it knew of."""
        await enqueue(broker_case.broker, delay_ms=LONG_MS)
        await broker_case.broker.idle([QUEUE], 0.02)
        began = time.monotonic()
        waiting = asyncio.create_task(broker_case.broker.idle([QUEUE], IDLE_S))
        await asyncio.sleep(0.05)

        await enqueue(broker_case.broker, delay_ms=1_000)
        await waiting

        assert time.monotonic() - began < WOKEN_S

    async def test_what_a_sweep_gives_back_is_announced(self, broker_case: BrokerCase) -> None:
        """A task that a worker lost shall not wait for the next look of one that sleeps."""
        hand = Hand(broker=broker_case.broker, id="w-1")
        await enqueue(broker_case.broker)
        await hand.take(lease_ms=20)
        await broker_case.broker.idle([QUEUE], 0.02)
        await broker_case.advance(0.04)
        began = time.monotonic()
        waiting = asyncio.create_task(broker_case.broker.idle([QUEUE], IDLE_S))
        await asyncio.sleep(0.05)

        await sweep_until(broker_case, broker_case.broker, hand)
        await waiting

        assert time.monotonic() - began < WOKEN_S

    async def test_what_is_found_standing_nowhere_is_announced(self, broker_case: BrokerCase) -> None:
        """A repaired task is one that has waited too long already."""
        task_id = await enqueue(broker_case.broker)
        await broker_case.broker.idle([QUEUE], 0.02)
        await broker_case.misplace(task_id, QUEUE)
        began = time.monotonic()
        waiting = asyncio.create_task(broker_case.broker.idle([QUEUE], IDLE_S))
        await asyncio.sleep(0.05)

        cursor, repaired = await broker_case.broker.reconcile()
        while cursor != "0":
            cursor, more = await broker_case.broker.reconcile(cursor)
            repaired += more
        await waiting

        assert repaired == 1
        assert time.monotonic() - began < WOKEN_S

    async def test_a_retry_that_becomes_due_is_announced(self, broker_case: BrokerCase) -> None:
        """Given back tasks wake an idle worker as new ones do."""
        hand = Hand(broker=broker_case.broker, id="w-1")
        await enqueue(broker_case.broker)
        delivery = await hand.take()
        await broker_case.broker.idle([QUEUE], 0.02)
        began = time.monotonic()
        waiting = asyncio.create_task(broker_case.broker.idle([QUEUE], IDLE_S))
        await asyncio.sleep(0.05)

        await hand.end(delivery, Outcome.GIVE_BACK)
        await waiting

        assert time.monotonic() - began < WOKEN_S


class BrokerContractWait:
    """Waiting for the end of a task."""

    async def test_waiting_is_ended_by_the_settlement(self, broker_case: BrokerCase) -> None:
        """It is pushed: the waiter has the result long before its timeout."""
        hand = Hand(broker=broker_case.broker, id="w-1")
        task_id = await enqueue(broker_case.broker)
        delivery = await hand.take()
        waiting = asyncio.create_task(broker_case.broker.wait(task_id, 8.0))
        await asyncio.sleep(0.05)
        began = time.monotonic()

        await hand.end(delivery, result=pack(42))
        status = await waiting

        assert status is not None
        assert (status.state, status.result) == ("succeeded", 42)
        assert time.monotonic() - began < 2.0

    async def test_a_wait_that_times_out_returns_the_state_as_it_is(self, broker_case: BrokerCase) -> None:
        """And None for a task that nobody knows."""
        task_id = await enqueue(broker_case.broker)

        waiting, unknown = await asyncio.gather(
            broker_case.broker.wait(task_id, 0.05), broker_case.broker.wait("nobody", 0.05)
        )

        assert waiting is not None
        assert (waiting.state, unknown) == ("queued", None)

    async def test_waiting_for_a_final_task_returns_at_once(self, broker_case: BrokerCase) -> None:
        """An end that came before the wait is not missed."""
        hand = Hand(broker=broker_case.broker, id="w-1")
        task_id = await enqueue(broker_case.broker)
        await hand.end(await hand.take())
        began = time.monotonic()

        status = await broker_case.broker.wait(task_id, 8.0)

        assert status is not None
        assert status.state == "succeeded"
        assert time.monotonic() - began < 2.0

    async def test_waiting_goes_on_over_a_retry(self, broker_case: BrokerCase) -> None:
        """Only a final state ends it."""
        hand = Hand(broker=broker_case.broker, id="w-1")
        task_id = await enqueue(broker_case.broker)
        waiting = asyncio.create_task(broker_case.broker.wait(task_id, 8.0))
        await hand.end(await hand.take(), Outcome.RETRY)
        again = await hand.take()
        await asyncio.sleep(0.05)
        assert not waiting.done()

        await hand.end(again, Outcome.DEAD)
        status = await waiting

        assert status is not None
        assert status.state == "failed"

    async def test_everybody_who_waits_is_told(self, broker_case: BrokerCase) -> None:
        """Several waiters of one task, on one handle and on another."""
        hand = Hand(broker=broker_case.broker, id="w-1")
        clone = broker_case.broker.clone()
        try:
            task_id = await enqueue(broker_case.broker)
            waits = [asyncio.create_task(b.wait(task_id, 8.0)) for b in (broker_case.broker, broker_case.broker, clone)]
            await asyncio.sleep(0.05)

            await hand.end(await hand.take())
            statuses = await asyncio.wait_for(asyncio.gather(*waits), 4)
        finally:
            await clone.close()

        assert [status.state if status else None for status in statuses] == ["succeeded"] * 3

    async def test_a_cancelled_wait_disturbs_no_other(self, broker_case: BrokerCase) -> None:
        """Giving up waiting leaves the handle usable."""
        hand = Hand(broker=broker_case.broker, id="w-1")
        task_id = await enqueue(broker_case.broker)
        quitter = asyncio.create_task(broker_case.broker.wait(task_id, 8.0))
        stayer = asyncio.create_task(broker_case.broker.wait(task_id, 8.0))
        await asyncio.sleep(0.05)

        quitter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await quitter
        await hand.end(await hand.take())
        status = await asyncio.wait_for(stayer, 4)

        assert status is not None
        assert status.state == "succeeded"


class BrokerContractHandles:
    """Several handles on one broker: for code without an event loop, and for other loops."""

    async def test_a_blocking_handle_enqueues_and_reads(self, broker_case: BrokerCase) -> None:
        """What it enqueues is what the other handles see, with the same answers."""
        task = new_task("t-1")
        blocking = await asyncio.to_thread(broker_case.broker.blocking)
        try:
            first = await asyncio.to_thread(blocking.enqueue, [task])
            again = await asyncio.to_thread(blocking.enqueue, [task])
            statuses = await asyncio.to_thread(blocking.statuses, ["t-1", "nobody"])
        finally:
            await asyncio.to_thread(blocking.close)

        assert [a.outcome for a in (*first, *again)] == ["queued", "exists"]
        assert statuses[0] is not None
        assert (statuses[0].state, statuses[1]) == ("queued", None)
        assert (await Hand(broker=broker_case.broker, id="w-1").take()).body == task.body

    async def test_a_blocking_handle_waits_for_the_end(self, broker_case: BrokerCase) -> None:
        """Its wait is ended by the settlement, and by its timeout."""
        hand = Hand(broker=broker_case.broker, id="w-1")
        await enqueue(broker_case.broker, task_id="t-1")
        delivery = await hand.take()
        blocking = await asyncio.to_thread(broker_case.broker.blocking)
        try:
            early = await asyncio.to_thread(blocking.wait, "t-1", 0.02)
            waiting = asyncio.create_task(asyncio.to_thread(blocking.wait, "t-1", 8.0))
            await asyncio.sleep(0.03)
            await hand.end(delivery, result=pack({"n": 1}))
            late = await waiting
        finally:
            await asyncio.to_thread(blocking.close)

        assert early is not None
        assert early.state == "running"
        assert late is not None
        assert (late.state, late.result) == ("succeeded", {"n": 1})

    async def test_a_blocking_handle_cancels(self, broker_case: BrokerCase) -> None:
        """Cancelling a waiting task makes it revoked."""
        await enqueue(broker_case.broker, task_id="t-1")
        command = Operator(broker_case.broker).command("revoke", args={"ids": ["t-1"]})
        blocking = await asyncio.to_thread(broker_case.broker.blocking)
        try:
            item = await asyncio.to_thread(blocking.cancel, "t-1", command)
        finally:
            await asyncio.to_thread(blocking.close)

        assert (item.target, item.outcome, item.changed) == ("t-1", "revoked", True)
        assert await state_of(broker_case.broker, "t-1") == "revoked"

    async def test_a_blocking_handle_tells_the_audit_how_it_cancels(self, broker_case: BrokerCase) -> None:
        """Who reads the audit sees whether what ran was to be ended too."""
        boss = Operator(broker_case.broker)
        blocking = await asyncio.to_thread(broker_case.broker.blocking)
        try:
            for task_id, args in (("t-1", {"ids": ["t-1"]}), ("t-2", {"ids": ["t-2"], "terminate": True})):
                await enqueue(broker_case.broker, task_id=task_id)
                await asyncio.to_thread(blocking.cancel, task_id, boss.command("revoke", args=args))
        finally:
            await asyncio.to_thread(blocking.close)

        rows = (await broker_case.broker.census.audit()).items

        assert [(row.targets, row.option) for row in rows] == [(("t-2",), "terminate"), (("t-1",), "")]

    async def test_a_clone_works_on_another_event_loop(self, broker_case: BrokerCase) -> None:
        """A clone made here serves a thread with a loop of its own, on the same data."""
        clone = broker_case.broker.clone()

        async def elsewhere() -> str:
            try:
                task_id = await enqueue(clone)
                assert (await status_of(clone, task_id)).queue == QUEUE
                return task_id
            finally:
                await clone.close()

        task_id = await asyncio.to_thread(lambda: asyncio.run(elsewhere()))

        assert (await Hand(broker=broker_case.broker, id="w-1").take()).id == task_id

    async def test_closing_twice_is_safe_and_closes_only_this_handle(self, broker_case: BrokerCase) -> None:
        """Another handle on the same broker goes on."""
        clone = broker_case.broker.clone()
        await enqueue(clone, task_id="t-1")

        await clone.close()
        await clone.close()

        assert await state_of(broker_case.broker, "t-1") == "queued"
        await make_dead(broker_case.broker, task_id="t-2", queue="other")

    async def test_a_handle_serves_many_calls_at_once(self, broker_case: BrokerCase) -> None:
        """A hundred callers wait for their turn; none is refused."""
        ids = [await enqueue(broker_case.broker) for _ in range(3)]

        answers = await asyncio.gather(*(broker_case.broker.statuses(ids) for _ in range(100)))

        assert all(status is not None for answer in answers for status in answer)
