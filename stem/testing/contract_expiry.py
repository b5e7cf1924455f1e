"""The contract of what a worker is told about tasks that came too late."""

from __future__ import annotations

import pytest

from stem.contracts import Expired, Outcome
from stem.testing.case import (
    LONG_MS,
    BrokerCase,
    Hand,
    enqueue,
    make_dead,
    new_task,
    put,
    settlement,
    state_of,
    status_of,
)


class BrokerContractExpiry:
    """The fetch that ends a task for its age tells its worker so."""

    async def test_a_fetch_tells_what_it_found_expired(self, broker_case: BrokerCase) -> None:
        """Whole, so that the worker can say whose task it was; what it hands out comes beside it."""
        late = new_task("late", task="report", body=b"its body", signature=b"s", expires_in_ms=5)
        await broker_case.broker.enqueue([late, new_task("good")])
        await broker_case.advance(0.02)

        answer = await Hand(broker=broker_case.broker, id="w-1").exchange()

        assert list(answer.expired) == [
            Expired(id="late", task="report", queue=late.queue, body=b"its body", signature=b"s", attempt=0)
        ]
        assert [d.id for d in answer.deliveries] == ["good"]

    async def test_an_ordinary_fetch_tells_of_none(self, broker_case: BrokerCase) -> None:
        """Neither one that hands out a task with an expiry, nor one that finds nothing."""
        hand = Hand(broker=broker_case.broker, id="w-1")
        await enqueue(broker_case.broker, expires_in_ms=60_000)

        found, nothing = await hand.exchange(), await hand.exchange()

        assert len(found.deliveries) == 1
        assert (list(found.expired), list(nothing.expired)) == ([], [])

    async def test_an_expired_task_is_told_once(self, broker_case: BrokerCase) -> None:
        """To the worker whose fetch ended it, and to no other."""
        await enqueue(broker_case.broker, task_id="late", expires_in_ms=5)
        await broker_case.advance(0.02)
        hands = [Hand(broker=broker_case.broker, id=f"w-{n}") for n in range(3)]

        told = [[one.id for one in (await hand.exchange()).expired] for hand in hands]

        assert told == [["late"], [], []]

    async def test_a_retry_that_came_too_late_is_told_with_its_attempt(self, broker_case: BrokerCase) -> None:
        """The expiry counts for every start, and the attempt is the one that will not happen."""
        hand = Hand(broker=broker_case.broker, id="w-1")
        await enqueue(broker_case.broker, task_id="late", expires_in_ms=150)
        await hand.end(await hand.take(), Outcome.RETRY, delay_ms=10)
        await broker_case.advance(0.2)

        (told,) = (await hand.exchange()).expired

        assert (told.id, told.attempt) == ("late", 1)
        assert (await status_of(broker_case.broker, "late")).reason == "expired before it could start again"

    async def test_many_expired_tasks_are_told_a_bounded_number_at_a_time(self, broker_case: BrokerCase) -> None:
        """Each once, and none of them left out: what one answer does not hold, the next one does."""
        late = [new_task(f"x-{n}", expires_in_ms=5) for n in range(450)]
        await broker_case.broker.enqueue(late)
        await broker_case.advance(0.02)
        hand = Hand(broker=broker_case.broker, id="w-1")

        answers = [await hand.exchange(count=50) for _ in range(10)]

        assert sorted(one.id for answer in answers for one in answer.expired) == sorted(task.id for task in late)
        assert max(len(answer.expired) for answer in answers) <= 250

    async def test_a_waiting_task_that_came_too_late_holds_no_unique_key(self, broker_case: BrokerCase) -> None:
        """Where no worker has looked yet, the next request would be answered with one that never starts."""
        broker = broker_case.broker
        await enqueue(broker, task_id="late", unique_key="k", expires_in_ms=20)
        first = await put(broker, new_task("t-1", unique_key="k"))
        await broker_case.advance(0.04)

        second = await put(broker, new_task("t-2", unique_key="k"))
        third = await put(broker, new_task("t-3", unique_key="k"))

        answers = [(one.id, one.outcome) for one in (first, second, third)]
        assert answers == [("late", "duplicate"), ("t-2", "queued"), ("t-2", "duplicate")]
        # And its own end takes nothing from the one that holds the key now.
        assert [d.id for d in await Hand(broker=broker, id="w-1").fetch()] == ["t-2"]
        assert await state_of(broker, "late") == "expired"
        assert (await put(broker, new_task("t-4", unique_key="k"))).outcome == "duplicate"

    @pytest.mark.parametrize("back", [Outcome.RETRY, Outcome.GIVE_BACK])
    async def test_a_task_that_runs_past_its_expiry_holds_its_key_until_it_is_back(
        self, broker_case: BrokerCase, back: Outcome
    ) -> None:
        """The expiry is for starting: what runs goes on, and what is to start again then never does."""
        broker = broker_case.broker
        hand = Hand(broker=broker, id="w-1")
        await enqueue(broker, task_id="slow", unique_key="k", expires_in_ms=300)
        delivery = await hand.take()
        await broker_case.advance(0.35)
        running = await put(broker, new_task("t-1", unique_key="k"))
        await hand.end(delivery, back, delay_ms=LONG_MS)

        after = await put(broker, new_task("t-2", unique_key="k"))

        assert (running.id, running.outcome) == ("slow", "duplicate")
        assert after.outcome == "queued"

    async def test_a_dead_letter_is_replayed_past_a_holder_that_came_too_late(self, broker_case: BrokerCase) -> None:
        broker = broker_case.broker
        dead = await make_dead(broker, task_id="dead", unique_key="k")
        await enqueue(broker, task_id="late", unique_key="k", expires_in_ms=20)
        first = await broker.replay([dead.id])
        await broker_case.advance(0.04)

        second = await broker.replay([dead.id])

        assert (first, second) == ({"dead": "duplicate"}, {"dead": "queued"})
        assert (await put(broker, new_task("t-1", unique_key="k"))).id == "dead"

    async def test_an_end_that_a_worker_sent_itself_is_not_told(self, broker_case: BrokerCase) -> None:
        """Who settles a task as expired knows it already."""
        hand = Hand(broker=broker_case.broker, id="w-1")
        await enqueue(broker_case.broker, task_id="own", expires_in_ms=60_000)
        end = settlement(await hand.take(), Outcome.EXPIRED)

        answer = await hand.exchange([end])

        assert await state_of(broker_case.broker, "own") == "expired"
        assert list(answer.expired) == []
