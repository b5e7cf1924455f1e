"""The contract of the time of enqueue: it is said once, and stays, whatever becomes of the task."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import pytest

from stem.contracts import ClearPause, Outcome, RevokeTasks, SetPause
from stem.testing.case import (
    FLEET,
    QUEUE,
    BrokerCase,
    Hand,
    Operator,
    enqueue,
    now_ms,
    status_of,
    sweep_until,
    until,
)

TASK: Final = "t-1"


async def _succeeds(case: BrokerCase, hand: Hand) -> None:
    await hand.end(await hand.take())


async def _dies(case: BrokerCase, hand: Hand) -> None:
    await hand.end(await hand.take(), Outcome.DEAD)


async def _is_replayed(case: BrokerCase, hand: Hand) -> None:
    await _dies(case, hand)
    await case.advance(0.02)
    await hand.broker.replay([TASK])


async def _is_retried(case: BrokerCase, hand: Hand) -> None:
    await hand.end(await hand.take(), Outcome.RETRY)


async def _is_retried_later(case: BrokerCase, hand: Hand) -> None:
    await hand.end(await hand.take(), Outcome.RETRY, delay_ms=20)
    await case.advance(0.03)


async def _is_handed_back(case: BrokerCase, hand: Hand) -> None:
    await hand.end(await hand.take(), Outcome.GIVE_BACK)


async def _is_held(case: BrokerCase, hand: Hand) -> None:
    operator = Operator(hand.broker)
    await operator.issue("pause", SetPause(kind="task", targets=["job"]))
    await hand.catch_up()
    assert await hand.fetch() == []
    await case.advance(0.15)
    await operator.issue("resume", ClearPause(kind="task", targets=["job"]))
    await hand.catch_up()


async def _is_revoked(case: BrokerCase, hand: Hand) -> None:
    await Operator(hand.broker).issue("revoke", RevokeTasks(ids=[TASK]))


async def _is_reclaimed(case: BrokerCase, hand: Hand) -> None:
    await Hand(broker=hand.broker, id="lost").take(lease_ms=20)
    await sweep_until(case, hand.broker, hand)


async def _is_buried_by_a_sweep(case: BrokerCase, hand: Hand) -> None:
    await Hand(broker=hand.broker, id="lost").take(lease_ms=20)
    await sweep_until(case, hand.broker, hand, max_crashes=1)


async def _is_repaired(case: BrokerCase, hand: Hand) -> None:
    await case.misplace(TASK, QUEUE)
    cursor, repaired = await hand.broker.reconcile("0")
    while cursor != "0":
        cursor, more = await hand.broker.reconcile(cursor)
        repaired += more
    assert repaired == 1


WAYS: Final[Mapping[str, Callable[[BrokerCase, Hand], Awaitable[None]]]] = {
    function.__name__.strip("_"): function
    for function in (
        *(_succeeds, _dies, _is_replayed, _is_retried, _is_retried_later, _is_handed_back, _is_held, _is_revoked),
        *(_is_reclaimed, _is_buried_by_a_sweep, _is_repaired),
    )
}
LOST: Final = ("is_reclaimed", "is_buried_by_a_sweep")
"""Ways on which a worker is lost."""


class BrokerContractTimeOfEnqueue:
    """Statuses, deliveries and the history name the same time of enqueue."""

    @pytest.mark.parametrize("way", WAYS)
    async def test_the_time_of_enqueue_stays(self, broker_case: BrokerCase, way: str) -> None:
        """Through whatever a task goes, more than once; and in what is kept of its end."""
        broker = broker_case.limits(FLEET) if way in LOST else broker_case.broker
        hand = Hand(broker=broker, id="here")
        before_ms = await now_ms(broker)
        await enqueue(broker, task_id=TASK)
        after_ms = await now_ms(broker)
        enqueued_ms = (await status_of(broker, TASK)).enqueued_at_ms
        assert enqueued_ms is not None
        assert before_ms <= enqueued_ms <= after_ms
        await broker_case.advance(0.02)

        await WAYS[way](broker_case, hand)

        status = await status_of(broker, TASK)
        assert status.enqueued_at_ms == enqueued_ms
        assert (status.timeline[0].at_ms, status.timeline[0].event) == (enqueued_ms, "enqueued")
        if not status.state.final:
            (delivery,) = await until(lambda: hand.fetch(), what="it is handed out")
            assert delivery.enqueued_at_ms == enqueued_ms
            assert (await status_of(broker, TASK)).enqueued_at_ms == enqueued_ms
            await hand.end(delivery)
        assert {row.enqueued_at_ms for row in await broker.census.history()} == {enqueued_ms}

    async def test_an_adopted_delivery_names_the_time_of_enqueue(self, broker_case: BrokerCase) -> None:
        broker = broker_case.broker
        await enqueue(broker, task_id=TASK)
        lost = await Hand(broker=broker, id="owner").take()

        (adopted,) = await broker.adopt("owner", [QUEUE], [])

        assert adopted.enqueued_at_ms == lost.enqueued_at_ms == (await status_of(broker, TASK)).enqueued_at_ms

    async def test_what_expires_unseen_keeps_its_time_of_enqueue(self, broker_case: BrokerCase) -> None:
        broker = broker_case.broker
        await enqueue(broker, task_id=TASK, expires_in_ms=20)
        enqueued_ms = (await status_of(broker, TASK)).enqueued_at_ms
        await broker_case.advance(0.03)

        assert await Hand(broker=broker, id="here").fetch() == []

        assert [row.enqueued_at_ms for row in await broker.census.history()] == [enqueued_ms]
        assert (await status_of(broker, TASK)).enqueued_at_ms == enqueued_ms
