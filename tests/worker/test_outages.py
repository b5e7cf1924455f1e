"""A server that lets some calls through and refuses others: the worker waits longer and longer, and says so once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from stem.contracts import Delivery, Exchange, FetchRequest, Settlement
from stem.errors import BrokerRefusedError, BrokerUnreachableError
from stem.messages.status import TaskState
from stem.task import TaskContext
from stem.worker.outage import Outages
from tests.waiting import eventually
from tests.worker.conftest import House
from tests.worker.handlers import on_loop


async def note(context: TaskContext, args: Any) -> None:
    return None


def said(caplog: pytest.LogCaptureFixture, event: str) -> int:
    return sum(record.message.split()[0] == event for record in caplog.records)


async def test_fetching_alone_refused_is_one_outage_with_growing_pauses(
    memory_house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Adopting goes well in between, and proves nothing."""
    caplog.set_level(logging.INFO, "stem.worker")
    house, broker = memory_house, memory_house.broker
    on_loop(house.registry, "note", note)
    asked: list[str] = []
    forbidden = True
    exchange, adopt = broker.exchange, broker.adopt

    async def refuse(worker: str, settlements: Sequence[Settlement], fetch: FetchRequest | None) -> Exchange:
        if fetch is not None and forbidden:
            asked.append("exchange")
            raise BrokerRefusedError("no disk", code="MISCONF")
        return await exchange(worker, settlements, fetch)

    async def count(worker: str, queues: Sequence[str], known: Collection[str]) -> list[Delivery]:
        asked.append("adopt")
        return await adopt(worker, queues, known)

    monkeypatch.setattr(broker, "exchange", refuse)
    monkeypatch.setattr(broker, "adopt", count)
    task_id = await house.stem.enqueue("note")
    await house.worker()
    await eventually(lambda: asked.count("exchange") >= 5, what="five attempts")
    so_far = len(asked)
    await asyncio.sleep(0.7)  # the pause is 0.8 s at least by now, of each lane

    assert len(asked) - so_far <= 6
    assert (said(caplog, "broker.away"), said(caplog, "broker.back")) == (1, 0)
    forbidden = False
    status = await house.stem.wait_for(task_id, timeout=10)
    assert status.state is TaskState.SUCCEEDED
    await eventually(lambda: said(caplog, "broker.back") == 1, what="the end of the outage is said")


async def test_a_bell_that_may_not_be_heard_does_not_make_the_worker_spin(
    memory_house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Exchanges go well, so the worker works; it looks for work when its pause is over."""
    caplog.set_level(logging.INFO, "stem.worker")
    house, broker = memory_house, memory_house.broker
    on_loop(house.registry, "note", note)
    asked = 0

    async def refuse(queues: Sequence[str], timeout_s: float) -> None:
        nonlocal asked
        asked += 1
        raise BrokerRefusedError("no", code="MISCONF")

    monkeypatch.setattr(broker, "idle", refuse)
    await house.worker()
    await eventually(lambda: asked >= 4, what="four attempts")
    so_far = asked
    await asyncio.sleep(0.7)
    task_id = await house.stem.enqueue("note")
    status = await house.stem.wait_for(task_id, timeout=10)

    assert asked - so_far <= 3
    assert status.state is TaskState.SUCCEEDED
    assert (said(caplog, "broker.away"), said(caplog, "broker.back")) == (1, 0)


async def test_a_busy_worker_needs_no_bell_to_know_that_the_broker_is_back(
    memory_house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "stem.worker")
    house, broker = memory_house, memory_house.broker
    idle, heard = broker.idle, asyncio.Event()
    freed = asyncio.Event()

    async def hold(context: TaskContext, args: Any) -> None:
        await freed.wait()

    async def lost_once(queues: Sequence[str], timeout_s: float) -> None:
        if not heard.is_set():
            heard.set()
            raise BrokerUnreachableError("gone")
        await idle(queues, timeout_s)

    on_loop(house.registry, "hold", hold)
    monkeypatch.setattr(broker, "idle", lost_once)
    await house.worker(concurrency=1)
    await heard.wait()
    await house.stem.enqueue("hold")

    await eventually(lambda: said(caplog, "broker.back") == 1, what="the end of the outage is said")
    freed.set()


def test_a_connection_that_breaks_again_and_again_is_told_every_ten_seconds(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "stem.worker")
    now = 1_000.0
    monkeypatch.setattr("stem.worker.outage.time", SimpleNamespace(monotonic=lambda: now))
    outage = Outages().of("tasks")

    for _ in range(80):  # four times a second
        outage.failed(BrokerUnreachableError("reset"))
        now += 0.125
        outage.over()
        now += 0.125
    outage.over()
    outage.failed(BrokerUnreachableError("reset"))
    now += 10.0
    outage.failed(BrokerUnreachableError("gone"))
    outage.over()

    told = [(record.message.split()[0], getattr(record, "times", None)) for record in caplog.records]
    assert told == [
        ("broker.away", None),
        ("broker.back", None),
        ("broker.away", 40),
        ("broker.back", None),
        ("broker.away", 40),
        ("broker.back", None),
    ]
