"""Copies of final statuses for a result backend of its own, and backends that do not take them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

import pytest

from stem.adapters.memory import InMemoryResultBackend
from stem.errors import BrokerError
from stem.messages.status import TaskState, TaskStatus
from stem.task import TaskContext
from stem.worker import finisher, runtime
from tests.waiting import eventually
from tests.worker.conftest import House
from tests.worker.handlers import on_loop


class Backend(InMemoryResultBackend):
    """Takes nothing while it is shut; raises what it is given, instead."""

    def __init__(self) -> None:
        super().__init__()
        self.open = asyncio.Event()
        self.open.set()
        self.error: Exception | None = None
        self.calls = 0

    async def store(self, status: TaskStatus, *, ttl_ms: int) -> bool:
        self.calls += 1
        await self.open.wait()
        if self.error is not None:
            raise self.error
        return await super().store(status, ttl_ms=ttl_ms)


async def large(context: TaskContext, args: Mapping[str, Any]) -> str:
    return "x" * 1_000


def named(caplog: pytest.LogCaptureFixture, event: str) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.message.split()[0] == event]


@pytest.mark.parametrize("error", [ValueError("no such table"), BrokerError("away")])
async def test_whatever_a_backend_raises_costs_the_copy_alone(
    memory_house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    """Ten copies that could not be stored ended the worker with exit code 70."""
    monkeypatch.setattr(finisher, "COPY_TRIES", 1)
    on_loop(memory_house.registry, "large", large)
    backend = Backend()
    backend.error = error
    worker = await memory_house.worker(backend=backend)
    for _ in range(12):
        await memory_house.stem.wait_for(await memory_house.stem.enqueue("large"), timeout=10)
    await eventually(lambda: len(named(caplog, "result.not_copied")) == 12, what="twelve are given up")

    backend.error = None
    status = await memory_house.stem.wait_for(await memory_house.stem.enqueue("large"), timeout=10)

    assert await worker.shutdown() == 0
    assert (await backend.get(status.id)) is not None
    assert named(caplog, "loop.died") == []
    assert f'error="{type(error).__name__}: {error}"' in named(caplog, "result.not_copied")[0].message


async def test_large_results_do_not_pile_up_while_the_backend_is_away(
    memory_house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """They were counted, not measured. Each outage is told of once, and when it is over."""
    monkeypatch.setattr(finisher, "COPIES_BYTES", 5_000)
    on_loop(memory_house.registry, "large", large)
    backend = Backend()
    worker = await memory_house.worker(backend=backend)

    for outages in (1, 2):
        backend.open.clear()
        ids = [await memory_house.stem.enqueue("large") for _ in range(7)]
        for task_id in ids:
            status = await memory_house.stem.wait_for(task_id, timeout=10)
            assert status.state is TaskState.SUCCEEDED
        await eventually(lambda: worker.stats()["in_flight"] == 0)
        assert len(named(caplog, "results.dropped")) == outages
        backend.open.set()
        await eventually(lambda: len(named(caplog, "results.copied_again")) == outages, what="it has caught up")  # noqa: B023
        assert "dropped=3" in named(caplog, "results.copied_again")[-1].message
        copies = [await backend.get(task_id) for task_id in ids]
        assert sum(copy is not None for copy in copies) == 4

    assert await worker.shutdown() == 0


async def test_a_stop_says_how_many_copies_it_leaves(
    memory_house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(runtime, "COPIES_S", 0.05)
    on_loop(memory_house.registry, "large", large)
    backend = Backend()
    backend.open.clear()
    worker = await memory_house.worker(backend=backend)
    for _ in range(3):
        await memory_house.stem.wait_for(await memory_house.stem.enqueue("large"), timeout=10)

    assert await worker.shutdown() == 0

    (left,) = named(caplog, "results.left")
    assert "count=3" in left.message
