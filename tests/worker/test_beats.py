"""When a worker beats: at its interval, and sooner only where a lease asks for it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from stem.options import TaskOptions
from stem.signals import StemSignals, WorkerHeartbeat
from stem.task import TaskContext
from tests.waiting import eventually
from tests.worker.conftest import House
from tests.worker.handlers import on_loop

UNHURRIED = {"heartbeat_interval_s": 30.0, "visibility_timeout_s": 120.0}


async def test_tasks_of_an_idle_worker_cost_no_beats(house: House) -> None:
    beats = _beats()
    on_loop(house.registry, "note", _note)
    await house.worker(config=UNHURRIED)
    for _ in range(10):
        await house.stem.wait_for(await house.stem.enqueue("note"), 10)

    # One of the start, and one of the state that follows on it.
    assert 1 <= len(beats) <= 2


async def test_a_lease_shorter_than_four_beats_is_renewed_in_time(house: House) -> None:
    beats = _beats()
    on_loop(house.registry, "nap", _nap)
    await house.worker(config=UNHURRIED)
    before = len(beats)
    task_id = await house.stem.enqueue("nap", options=TaskOptions(visibility_timeout=0.8))
    await eventually(lambda: len(beats) > before + 2, 10, what="beats that renew the lease")

    status = await house.stem.wait_for(task_id, 10)
    assert (status.state.value, status.attempt) == ("succeeded", 0)


def _beats() -> list[WorkerHeartbeat]:
    found: list[WorkerHeartbeat] = []
    StemSignals.worker_heartbeat.connect(lambda event, context: found.append(event))
    return found


async def _note(context: TaskContext, args: Mapping[str, Any]) -> None: ...


async def _nap(context: TaskContext, args: Mapping[str, Any]) -> None:
    await asyncio.sleep(1.5)
