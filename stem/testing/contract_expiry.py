"""The contract of what a worker is told about tasks that came too late."""

from __future__ import annotations

from stem.contracts import Expired, Outcome
from stem.testing.case import BrokerCase, Hand, enqueue, new_task, settlement, state_of


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

    async def test_many_expired_tasks_are_told_a_bounded_number_at_a_time(self, broker_case: BrokerCase) -> None:
        """Each once, and none of them left out: what one answer does not hold, the next one does."""
        late = [new_task(f"x-{n}", expires_in_ms=5) for n in range(450)]
        await broker_case.broker.enqueue(late)
        await broker_case.advance(0.02)
        hand = Hand(broker=broker_case.broker, id="w-1")

        answers = [await hand.exchange(count=50) for _ in range(10)]

        assert sorted(one.id for answer in answers for one in answer.expired) == sorted(task.id for task in late)
        assert max(len(answer.expired) for answer in answers) <= 250

    async def test_an_end_that_a_worker_sent_itself_is_not_told(self, broker_case: BrokerCase) -> None:
        """Who settles a task as expired knows it already."""
        hand = Hand(broker=broker_case.broker, id="w-1")
        await enqueue(broker_case.broker, task_id="own", expires_in_ms=60_000)
        end = settlement(await hand.take(), Outcome.EXPIRED)

        answer = await hand.exchange([end])

        assert await state_of(broker_case.broker, "own") == "expired"
        assert list(answer.expired) == []
