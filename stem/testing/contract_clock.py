"""The contract of a broker whose clock is set back: no work stands still until it has caught up."""

from __future__ import annotations

from stem.contracts import ClearPause, Limits, SetPause
from stem.testing.case import (
    FLEET,
    BrokerCase,
    Hand,
    Operator,
    enqueue,
    make_dead,
    new_task,
    sweep_until,
    until,
)

HOUR_S: int = 3_600
SOON: int = FLEET.lost_after_ms // 3


class BrokerContractClock:
    """What is stored as a time may lie ahead; it counts as long ago."""

    async def test_sweeps_go_on_after_the_clock_was_set_back(self, broker_case: BrokerCase) -> None:
        """The last one lies ahead, and the next one takes place all the same."""
        broker = broker_case.limits(FLEET)
        gone, here = Hand(broker=broker, id="gone", interval_ms=SOON), Hand(broker=broker, id="here", interval_ms=SOON)
        await enqueue(broker)
        await gone.beat()
        await gone.take(lease_ms=20)
        await sweep_until(broker_case, broker, gone)
        await broker_case.set_back(HOUR_S)
        await gone.beat()
        await gone.take(lease_ms=20)
        await gone.beat(state="stopped")

        swept = await sweep_until(broker_case, broker, here)

        assert (swept.requeued, swept.buried) == (1, 0)

    async def test_an_outage_that_lies_ahead_puts_no_sweep_off(self, broker_case: BrokerCase) -> None:
        """The clock was an hour ahead, which looked like an outage, and came back."""
        broker = broker_case.limits(FLEET)
        gone, here = Hand(broker=broker, id="gone", interval_ms=SOON), Hand(broker=broker, id="here", interval_ms=SOON)
        await here.beat()
        await broker_case.advance(FLEET.lost_after_ms / 1_000 * 1.5)
        await here.beat()
        await broker_case.set_back(HOUR_S)
        await enqueue(broker)
        await gone.beat()
        await gone.take(lease_ms=20)
        await gone.beat(state="stopped")

        swept = await sweep_until(broker_case, broker, here)

        assert swept.requeued == 1

    async def test_what_was_held_comes_back_after_the_clock_was_set_back(self, broker_case: BrokerCase) -> None:
        """The last look at it lies ahead, and there was more than one look finds."""
        broker, operator = broker_case.broker, Operator(broker_case.broker)
        hand = Hand(broker=broker, id="w-1")
        await broker.enqueue([new_task(task="x") for _ in range(250)])
        await operator.issue("pause", SetPause(kind="task", targets=["x"]))
        await hand.catch_up()
        for _ in range(2):
            await hand.fetch()
        await operator.issue("resume", ClearPause(kind="task", targets=["x"]))
        await hand.catch_up()
        back = len(await hand.fetch(1))
        await broker_case.set_back(HOUR_S)

        async def all_back() -> bool:
            nonlocal back
            back += len(await hand.fetch())
            await broker_case.advance(0.02)
            return back == 250

        await until(all_back, what="the held ones came back")

    async def test_who_died_after_the_clock_was_set_back_is_the_newest(self, broker_case: BrokerCase) -> None:
        """Where there are too many dead letters the oldest leaves, and not the one that has just come."""
        broker = broker_case.limits(Limits(dead_count=2))
        await make_dead(broker, task_id="a")
        await make_dead(broker, task_id="b")
        await broker_case.set_back(HOUR_S)
        await make_dead(broker, task_id="z")
        await make_dead(broker, task_id="c")

        page = await broker.census.tasks("dead")

        assert [item.id for item in page.items] == ["c", "z"]
