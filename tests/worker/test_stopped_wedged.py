"""A worker that is told to stop while a handler blocks its work loop: what it held runs elsewhere, and what may have
blocked it counts a crash, or it would wedge one worker after another.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from typing import Any

import pytest

from stem.messages.status import TaskState, TaskStatus
from stem.task import TaskContext
from stem.worker.lifecycle import Level
from stem.worker.watchdog import FROZEN_S, WEDGED_S
from tests.waiting import eventually, wait_until
from tests.worker.conftest import House
from tests.worker.handlers import in_thread, on_loop


async def stopped(house: House, *, after_s: float, frozen: bool = False) -> tuple[TaskStatus, TaskStatus]:
    """Stop a worker hard whose loop has been blocked for so long; return what is said of the task that blocks, and of
    one that runs in a thread beside it.
    """
    blocking, beside, over = threading.Event(), threading.Event(), threading.Event()

    async def blocks(context: TaskContext, args: Mapping[str, Any]) -> None:
        blocking.set()
        over.wait(30)  # blocks the loop

    def waits(context: TaskContext, args: Mapping[str, Any]) -> None:
        beside.set()
        over.wait(30)

    on_loop(house.registry, "blocks", blocks)
    in_thread(house.registry, "waits", waits)
    worker = await house.worker()
    waiter = await house.stem.enqueue("waits")
    await eventually(beside.is_set)
    blocker = await house.stem.enqueue("blocks")

    def stop() -> None:
        try:
            assert blocking.wait(10)
            wait_until(lambda: worker._board.loop_age_s() >= after_s)
            if frozen:
                worker._vitals._watchdog._looked_at -= 2 * FROZEN_S
            worker._vitals.ask(Level.HARD, "the test says so")
            wait_until(lambda: not worker._board.jobs, what="all is settled")
        finally:
            over.set()

    await asyncio.to_thread(stop)
    assert await worker.wait() == 0
    return await house.stem.status(blocker), await house.stem.status(waiter)


async def test_what_blocks_the_loop_counts_a_crash_when_its_worker_is_stopped(house: House) -> None:
    blocker, waiter = await stopped(house, after_s=WEDGED_S + 0.5)

    assert (blocker.state, blocker.attempt, blocker.crashes) == (TaskState.QUEUED, 0, 1)
    assert (waiter.state, waiter.attempt, waiter.crashes) == (TaskState.QUEUED, 0, 0)


@pytest.mark.parametrize(("after_s", "frozen"), [(0.0, False), (WEDGED_S + 0.5, True)])
async def test_a_loop_that_stood_still_for_a_moment_or_with_its_whole_process_accuses_nobody(
    memory_house: House, after_s: float, frozen: bool
) -> None:
    """A process that was stopped (SIGSTOP, a paused machine) may hear of its end before it looks at the loop again."""
    blocker, _ = await stopped(memory_house, after_s=after_s, frozen=frozen)

    assert (blocker.state, blocker.crashes) == (TaskState.QUEUED, 0)
