"""A lease that ran out before its handler began, or while it ran: what the worker that had it does then."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from stem.adapters.memory import InMemoryBroker
from stem.contracts import Delivery, Exchange, FetchRequest, Outcome, Settlement, Swept
from stem.messages.status import TaskState
from stem.options import TaskOptions
from stem.task import TaskContext
from stem.worker import dispatch, vitals
from tests.waiting import eventually
from tests.worker.conftest import House
from tests.worker.handlers import in_thread, on_loop

LEASE_S = 0.6


@pytest.mark.parametrize("kind", ["loop", "thread"])
async def test_a_delivery_that_comes_after_its_lease_does_not_begin(
    house: House, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """As when the process stood still while the broker's answer waited for it: another worker may have the task."""
    tokens: list[int] = []

    async def on_the_loop(context: TaskContext, args: Mapping[str, Any]) -> None:
        tokens.append(context.token)

    def in_a_thread(context: TaskContext, args: Mapping[str, Any]) -> None:
        tokens.append(context.token)

    if kind == "loop":
        on_loop(house.registry, "note", on_the_loop)
    else:
        in_thread(house.registry, "note", in_a_thread)
    exchange = house.broker.exchange
    delayed: list[Delivery] = []

    async def late(worker: str, settlements: Sequence[Settlement], fetch: FetchRequest | None) -> Exchange:
        answer = await exchange(worker, settlements, fetch)
        if answer.deliveries and not delayed:
            delayed.extend(answer.deliveries)
            await eventually(taken_away, what="the task waits for another worker")
        return answer

    async def taken_away() -> bool:
        await house.broker.sweep(["default"])
        (status,) = await house.broker.statuses([delayed[0].id])
        return status is not None and status.state is TaskState.QUEUED

    monkeypatch.setattr(house.broker, "exchange", late)
    task_id = await house.stem.enqueue("note", options=TaskOptions(visibility_timeout=LEASE_S))
    await house.worker()

    status = await house.stem.wait_for(task_id, timeout=10)

    assert status.state is TaskState.SUCCEEDED
    assert [delivery.token for delivery in delayed] == [1]
    assert tokens == [status.token]
    assert status.token > 1
    assert status.attempt == 0


async def test_a_task_that_comes_back_to_its_worker_ends_the_first_run(
    memory_house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that was frozen may be the first to fetch what it lost, before anybody has told it of the loss."""
    ends: list[tuple[int, str]] = []

    async def handler(context: TaskContext, args: Mapping[str, Any]) -> None:
        if context.token > 1:
            ends.append((context.token, "done"))
            return
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            ends.append((context.token, "cut"))
            raise

    on_loop(memory_house.registry, "note", handler)
    exchange = memory_house.broker.exchange
    first: list[Delivery] = []

    async def twice(worker: str, settlements: Sequence[Settlement], fetch: FetchRequest | None) -> Exchange:
        answer = await exchange(worker, settlements, fetch)
        if fetch is not None and first:
            again = [replace(delivery, token=2) for delivery in first]
            first.clear()
            return replace(answer, deliveries=again)
        first.extend(answer.deliveries)
        return answer

    monkeypatch.setattr(memory_house.broker, "exchange", twice)
    worker = await memory_house.worker()
    await memory_house.stem.enqueue("note")
    await eventually(lambda: first, what="the first delivery")
    await memory_house.stem.enqueue("note")  # an exchange more

    await eventually(lambda: {(1, "cut"), (2, "done")} <= set(ends), what="both runs of the task have ended")
    await eventually(lambda: worker.stats()["counters"]["lost"] >= 1, what="the first run is counted as lost")


@pytest.mark.parametrize("kind", ["loop", "thread"])
async def test_a_handler_that_ends_when_its_lease_is_lost_is_over(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    """It is neither a handler that does not end nor a zombie thread, however long the worker lives."""
    monkeypatch.setattr(dispatch, "CANCEL_GRACE_S", 0.2)
    began: list[str] = []

    async def on_the_loop(context: TaskContext, args: Mapping[str, Any]) -> None:
        began.append(context.id)
        await asyncio.sleep(30)

    def in_a_thread(context: TaskContext, args: Mapping[str, Any]) -> None:
        began.append(context.id)
        while True:
            time.sleep(0.01)

    if kind == "loop":
        on_loop(house.registry, "note", on_the_loop)
    else:
        in_thread(house.registry, "note", in_a_thread)
    worker = await house.worker()
    task_id = await house.stem.enqueue("note")
    await eventually(lambda: began, what="the handler runs")
    with caplog.at_level(logging.INFO, logger="stem.worker"):
        # Ended behind its back, as it looks to a worker whose task another one has taken over and finished.
        gone = Settlement(id=task_id, token=1, outcome=Outcome.SUCCEEDED, ttl_ms=60_000)
        await house.broker.exchange(worker.id, [gone], None)
        await eventually(lambda: worker.stats()["counters"]["lost"] == 1, what="the worker knows")
        await asyncio.sleep(3 * 0.2 + 0.2)  # past all graces: what would come by mistake has come

    assert "task.lease_lost" in caplog.text
    assert "task.does_not_end" not in caplog.text
    stats = worker.stats()
    assert (stats["zombie_threads"], stats["in_flight"], stats["counters"]["lost"]) == (0, 0, 1)


@pytest.mark.parametrize(("sweepers", "seldom"), [(10, False), (0.01, True)], ids=["a small fleet", "a large fleet"])
async def test_each_worker_of_a_large_fleet_sweeps_less_often(
    memory_house: House, monkeypatch: pytest.MonkeyPatch, sweepers: float, seldom: bool
) -> None:
    """This fleet is of one: it is large where a hundredth of a sweeper does."""
    swept: list[float] = []
    sweep = InMemoryBroker.sweep

    async def counted(broker: InMemoryBroker, *args: Any, **options: Any) -> Swept:
        swept.append(time.monotonic())
        return await sweep(broker, *args, **options)

    monkeypatch.setattr(InMemoryBroker, "sweep", counted)
    monkeypatch.setattr(vitals, "SWEEPERS", sweepers)
    monkeypatch.setattr(vitals, "SHORTEST_SWEEP_S", 0.1)
    await memory_house.worker(config={"visibility_timeout_s": 0.2})
    await eventually(lambda: swept if seldom else len(swept) > 1)
    if seldom:
        await asyncio.sleep(1.5)
        assert len(swept) == 1


async def test_a_worker_sweeps_again_at_once_while_there_is_more(
    memory_house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a lost worker had does not come back a part every few seconds."""
    answers = [Swept(requeued=100, more=True)] * 3 + [Swept(requeued=1)]
    swept: list[float] = []

    async def counted(broker: InMemoryBroker, *args: Any, **options: Any) -> Swept:
        swept.append(time.monotonic())
        return answers[len(swept) - 1] if len(swept) <= len(answers) else Swept()

    monkeypatch.setattr(InMemoryBroker, "sweep", counted)
    monkeypatch.setattr(vitals, "SHORTEST_SWEEP_S", 0.1)
    monkeypatch.setattr(vitals, "LONGEST_SWEEP_S", 30.0)
    await memory_house.worker(config={"visibility_timeout_s": 60.0})
    await eventually(lambda: len(swept) >= len(answers))
    await asyncio.sleep(0.5)

    assert len(swept) == len(answers)
