"""Callbacks of signals that take their time: what the worker does meanwhile, and afterwards."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from stem.messages.status import TaskState
from stem.options import TaskOptions
from stem.signals import StemSignals
from stem.task import TaskContext
from stem.worker import dispatch, runtime
from stem.worker.job import Stop
from tests.waiting import eventually
from tests.worker.conftest import House
from tests.worker.handlers import in_thread, on_loop


def plain(context: TaskContext, args: Mapping[str, Any]) -> str:
    return "ran"


def handler(kind: Callable[..., None], ran: threading.Event) -> Callable[..., Any]:
    """Return a handler of this kind that notes that it ran."""

    async def on_the_loop(context: TaskContext, args: Mapping[str, Any]) -> None:
        ran.set()

    def in_a_thread(context: TaskContext, args: Mapping[str, Any]) -> None:
        ran.set()

    return in_a_thread if kind is in_thread else on_the_loop


async def waiting_in_prerun(house: House) -> tuple[str, asyncio.Event]:
    """Enqueue task `first`, and return its id and what lets its callback go on, once that is awaited."""
    called, go = asyncio.Event(), asyncio.Event()

    async def prerun(event: object, context: object) -> None:
        called.set()
        await go.wait()

    StemSignals.on_task_prerun(prerun, task="first")
    task_id = await house.stem.enqueue("first")
    await called.wait()
    return task_id, go


@pytest.mark.parametrize("why", [Stop.LOST, Stop.UNRENEWED, Stop.HAND_BACK, Stop.REVOKED, Stop.HARD_LIMIT])
async def test_a_task_that_is_given_up_before_its_thread_gives_its_slot_back(
    memory_house: House, monkeypatch: pytest.MonkeyPatch, why: Stop
) -> None:
    """It is in no line and in no thread while `task_prerun` is awaited; its slot stayed taken for ever."""
    monkeypatch.setattr(dispatch, "CANCEL_GRACE_S", 0.05)
    in_thread(memory_house.registry, "first", plain, TaskOptions(max_retries=0, time_limit=60))
    in_thread(memory_house.registry, "second", plain)
    worker = await memory_house.worker(concurrency=1)
    _, go = await waiting_in_prerun(memory_house)
    second = await memory_house.stem.enqueue("second")
    (job,) = worker._board.snapshot()

    worker._dispatcher.stop(job, why)
    await eventually(lambda: worker.stats()["zombie_threads"] == 1, what="it is given up")
    go.set()

    status = await memory_house.stem.wait_for(second, timeout=10)
    assert (status.state, status.result) == (TaskState.SUCCEEDED, "ran")
    await eventually(lambda: worker.stats()["zombie_threads"] == 0 and worker._board.slots_used == 0)


@pytest.mark.parametrize("kind", [in_thread, on_loop])
async def test_a_task_that_is_revoked_during_its_callback_never_starts(
    memory_house: House, kind: Callable[..., None]
) -> None:
    """It is in no line and in no thread then, so that nothing could be taken back."""
    ran = threading.Event()
    kind(memory_house.registry, "first", handler(kind, ran))
    worker = await memory_house.worker()
    task_id, go = await waiting_in_prerun(memory_house)

    await memory_house.controller.revoke([task_id])
    go.set()

    status = await memory_house.stem.wait_for(task_id, timeout=10)
    assert (status.state, ran.is_set()) == (TaskState.REVOKED, False)
    await eventually(lambda: worker._board.slots_used == 0)


@pytest.mark.parametrize("kind", [in_thread, on_loop])
async def test_a_task_that_is_paused_during_its_callback_does_not_start_before_the_resume(
    memory_house: House, kind: Callable[..., None]
) -> None:
    """A plain one waited for a thread afterwards, and began whenever one was free."""
    ran = threading.Event()
    kind(memory_house.registry, "first", handler(kind, ran))
    worker = await memory_house.worker()
    task_id, go = await waiting_in_prerun(memory_house)
    pausing = asyncio.create_task(memory_house.controller.pause("task", ["first"]))
    await eventually(lambda: worker._board.paused_tasks == {"first"})

    go.set()

    assert (await pausing).applied == 1
    assert worker.stats()["in_flight"] == 0
    assert not ran.is_set()
    await memory_house.controller.resume("task", ["first"])
    assert (await memory_house.stem.wait_for(task_id, timeout=10)).state is TaskState.SUCCEEDED


async def test_a_callback_that_does_not_end_keeps_no_worker_from_its_end(
    memory_house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The worker was gone, its process was not, and no signal ended it but SIGKILL."""
    monkeypatch.setattr(runtime, "SHUTDOWN_S", 0.05)
    go = asyncio.Event()

    async def stubborn(event: object, context: object) -> None:
        while not go.is_set():
            try:
                await go.wait()
            except asyncio.CancelledError:
                continue

    StemSignals.on_worker_shutdown(stubborn)
    worker = await memory_house.worker()

    async with asyncio.timeout(5):
        assert await worker.shutdown() == 0

    assert "worker.callback_left" in caplog.text
    go.set()
