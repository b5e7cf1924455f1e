"""Time limits, leases, and handlers that do not end."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Mapping
from typing import Any

import pytest

from stem.contracts import Delivery
from stem.control.diagnose import diagnose
from stem.errors import SoftTimeLimitExceeded
from stem.messages.status import TaskState
from stem.options import TaskOptions
from stem.signals import StemSignals, TaskPostrun
from stem.task import TaskContext
from stem.worker import dispatch, zombies
from stem.worker.job import Job, Stop
from stem.worker.vitals import Vitals
from tests.waiting import eventually
from tests.worker.conftest import House
from tests.worker.handlers import in_thread, on_loop


async def test_a_soft_limit_is_raised_inside_an_async_handler(memory_house: House) -> None:
    async def careful(context: TaskContext, args: Mapping[str, Any]) -> str:
        try:
            await asyncio.sleep(30)
        except SoftTimeLimitExceeded:
            return "cleaned up"
        return "never"

    on_loop(memory_house.registry, "careful", careful, TaskOptions(soft_time_limit=0.05))
    await memory_house.worker()

    status = await memory_house.stem.wait_for(await memory_house.stem.enqueue("careful"), timeout=10)

    assert (status.state, status.result) == (TaskState.SUCCEEDED, "cleaned up")


async def test_a_soft_limit_ends_task_groups_and_timeouts_of_the_handler(memory_house: House) -> None:
    ended = []

    async def child() -> None:
        try:
            await asyncio.sleep(30)
        finally:
            ended.append("child")

    async def grouped(context: TaskContext, args: Mapping[str, Any]) -> None:
        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            group.create_task(child())

    on_loop(memory_house.registry, "grouped", grouped, TaskOptions(soft_time_limit=0.05, max_retries=0))
    await memory_house.worker()

    status = await memory_house.stem.wait_for(await memory_house.stem.enqueue("grouped"), timeout=10)

    assert status.state is TaskState.FAILED
    assert status.error is not None
    assert "SoftTimeLimit" in status.error.type
    assert ended == ["child"]


async def test_a_soft_limit_is_raised_inside_a_thread(memory_house: House) -> None:
    def careful(context: TaskContext, args: Mapping[str, Any]) -> str:
        try:
            while True:
                time.sleep(0.005)
        except SoftTimeLimitExceeded:
            return "cleaned up"

    in_thread(memory_house.registry, "careful", careful, TaskOptions(soft_time_limit=0.05))
    await memory_house.worker()

    for _ in range(3):  # the thread that was interrupted is as good as new
        status = await memory_house.stem.wait_for(await memory_house.stem.enqueue("careful"), timeout=10)
        assert (status.state, status.result) == (TaskState.SUCCEEDED, "cleaned up")


async def test_a_hard_limit_ends_an_async_handler_and_counts_as_a_failure(house: House) -> None:
    starts = []

    async def slow(context: TaskContext, args: Mapping[str, Any]) -> None:
        starts.append(context.attempt)
        await asyncio.sleep(30)

    on_loop(house.registry, "slow", slow, TaskOptions(time_limit=0.05, max_retries=1))
    await house.worker()

    status = await house.stem.wait_for(await house.stem.enqueue("slow"), timeout=10)

    assert status.error is not None
    assert (status.state, status.error.type, starts) == (TaskState.FAILED, "HardTimeLimitExceeded", [0, 1])


async def test_an_async_handler_that_swallows_cancellation_is_given_up(
    memory_house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "CANCEL_GRACE_S", 0.05)
    release = asyncio.Event()

    async def stubborn(context: TaskContext, args: Mapping[str, Any]) -> str:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue
        return "too late"

    on_loop(memory_house.registry, "stubborn", stubborn, TaskOptions(time_limit=0.05, max_retries=0))
    worker = await memory_house.worker()

    status = await memory_house.stem.wait_for(await memory_house.stem.enqueue("stubborn"), timeout=10)
    assert status.error is not None
    assert status.error.type == "HardTimeLimitExceeded"
    assert worker._board.slots_used == 1

    release.set()
    await eventually(lambda: worker._board.slots_used == 0)


async def test_a_thread_past_its_hard_limit_is_a_zombie_until_it_ends(memory_house: House) -> None:
    release = threading.Event()

    def stuck(context: TaskContext, args: Mapping[str, Any]) -> str:
        while not release.is_set():
            try:
                release.wait(0.01)
            except SoftTimeLimitExceeded:
                continue
        return "too late"

    async def quick(context: TaskContext, args: Mapping[str, Any]) -> str:
        return "quick"

    in_thread(memory_house.registry, "stuck", stuck, TaskOptions(time_limit=0.05, max_retries=0))
    on_loop(memory_house.registry, "quick", quick)
    worker = await memory_house.worker(concurrency=2)

    status = await memory_house.stem.wait_for(await memory_house.stem.enqueue("stuck"), timeout=10)

    assert status.error is not None
    assert status.error.type == "HardTimeLimitExceeded"
    assert worker.stats()["zombie_threads"] == 1
    assert (await memory_house.stem.wait_for(await memory_house.stem.enqueue("quick"), timeout=10)).result == "quick"

    release.set()
    await eventually(lambda: worker.stats()["zombie_threads"] == 0 and worker._board.slots_used == 0)


@pytest.mark.parametrize("kind", ["thread", "async"])
async def test_a_worker_whose_slots_are_all_lost_leaves(
    memory_house: House, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(dispatch, "CANCEL_GRACE_S", 0.05)
    monkeypatch.setattr(zombies, "PATIENCE_S", 0.3)
    release, released = threading.Event(), asyncio.Event()

    def stuck(context: TaskContext, args: Mapping[str, Any]) -> None:
        while not release.is_set():
            with contextlib.suppress(SoftTimeLimitExceeded):
                release.wait(0.01)

    async def stubborn(context: TaskContext, args: Mapping[str, Any]) -> None:
        while not released.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await released.wait()

    options = TaskOptions(time_limit=0.05, max_retries=0)
    if kind == "thread":
        in_thread(memory_house.registry, "stuck", stuck, options)
    else:
        on_loop(memory_house.registry, "stuck", stubborn, options)
    worker = await memory_house.worker(concurrency=2)
    try:
        first = await memory_house.stem.enqueue("stuck")
        await memory_house.stem.wait_for(first, timeout=10)
        assert worker.stats()["zombie_threads"] == 1
        assert worker.stats()["state"] == "running"

        await memory_house.stem.enqueue("stuck")

        async with asyncio.timeout(10):
            assert await worker.wait() == 70
        waiting = await memory_house.stem.enqueue("stuck")
        assert (await memory_house.stem.status(waiting)).state is TaskState.QUEUED
    finally:
        release.set()
        released.set()


async def test_slots_that_come_back_a_little_late_are_waited_for(
    memory_house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zombies, "PATIENCE_S", 2.0)

    release = threading.Event()

    def late(context: TaskContext, args: Mapping[str, Any]) -> None:
        release.wait(10)

    in_thread(memory_house.registry, "late", late, TaskOptions(time_limit=0.05, max_retries=0))
    worker = await memory_house.worker(concurrency=1)
    for _ in range(3):
        release.clear()
        await memory_house.stem.wait_for(await memory_house.stem.enqueue("late"), timeout=10)
        assert worker.stats()["zombie_threads"] == 1
        release.set()
        await eventually(lambda: worker.stats()["zombie_threads"] == 0)

    await asyncio.sleep(2.2)
    assert worker.stats()["state"] == "running"


async def test_a_slot_that_is_lost_is_not_free(memory_house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "CANCEL_GRACE_S", 0.05)
    release, released = asyncio.Event(), asyncio.Event()

    async def stubborn(context: TaskContext, args: Mapping[str, Any]) -> None:
        while not release.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await release.wait()

    async def patient(context: TaskContext, args: Mapping[str, Any]) -> None:
        await released.wait()

    on_loop(memory_house.registry, "stubborn", stubborn, TaskOptions(time_limit=0.05, max_retries=0))
    on_loop(memory_house.registry, "patient", patient)
    await memory_house.worker(concurrency=2)
    try:
        await memory_house.stem.wait_for(await memory_house.stem.enqueue("stubborn"), timeout=10)
        await memory_house.stem.enqueue("patient")

        async def busy() -> bool:
            (seen,) = await memory_house.broker.presence.workers()
            return diagnose(seen) == "busy"

        await eventually(busy)
    finally:
        release.set()
        released.set()


async def test_a_lease_is_renewed_while_the_handler_runs(house: House) -> None:
    starts = []
    began = 0.0
    past_its_first_term = asyncio.Event()

    async def long(context: TaskContext, args: Mapping[str, Any]) -> str:
        nonlocal began
        began = time.monotonic()
        starts.append(context.token)
        await past_its_first_term.wait()
        return "done"

    # Two thirds of it without a beat end the run: no less than a machine may stall for.
    on_loop(house.registry, "long", long, TaskOptions(visibility_timeout=3.0))
    await house.worker()
    await house.worker(clone=True)
    task_id = await house.stem.enqueue("long")

    await eventually(lambda: starts)
    while time.monotonic() < began + 3.5:
        await house.broker.sweep(["default"])
        await asyncio.sleep(0.1)
    past_its_first_term.set()

    status = await house.stem.wait_for(task_id, timeout=10)
    assert (status.result, starts) == ("done", [1])


async def test_without_confirmed_renewal_the_handler_is_stopped_before_the_lease_ends(
    memory_house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[bool, float]] = []

    async def cut_off(context: TaskContext, args: Mapping[str, Any]) -> None:
        began = time.monotonic()
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            told.append((context.lease_lost, time.monotonic() - began))
            raise

    on_loop(memory_house.registry, "cut_off", cut_off, TaskOptions(visibility_timeout=3))
    worker = await memory_house.worker()
    await memory_house.stem.enqueue("cut_off")
    await eventually(lambda: worker.stats()["in_flight"])

    async def hangs(*args: object, **kwargs: object) -> None:
        await asyncio.sleep(60)

    vitals: Vitals = worker._vitals
    monkeypatch.setattr(vitals._beater, "beat", hangs)
    await eventually(lambda: told)

    lost, after_s = told[0]
    assert lost
    assert 1.5 < after_s < 3


async def test_a_task_that_another_worker_holds_is_cancelled_and_not_settled(house: House) -> None:
    ended = []

    async def stolen(context: TaskContext, args: Mapping[str, Any]) -> None:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            ended.append(context.lease_lost)
            raise

    on_loop(house.registry, "stolen", stolen)
    told: list[TaskPostrun] = []
    StemSignals.on_task_postrun(lambda event, context: told.append(event))
    worker = await house.worker()
    task_id = await house.stem.enqueue("stolen")
    await eventually(lambda: worker.stats()["in_flight"])
    job = worker._board.jobs[task_id]
    # As if its lease had run out and been given to another one: the token in hand is an old one.
    job.delivery.token -= 1

    await eventually(lambda: ended)

    assert ended == [True]
    await eventually(lambda: worker.stats()["counters"]["lost"] == 1)
    assert (await house.stem.status(task_id)).state is TaskState.RUNNING
    assert [(event.id, event.outcome) for event in told] == [(task_id, "lost")]


async def test_a_late_result_is_refused(house: House) -> None:
    go = asyncio.Event()

    async def late(context: TaskContext, args: Mapping[str, Any]) -> str:
        await go.wait()
        return "late"

    on_loop(house.registry, "late", late)
    worker = await house.worker(config={"heartbeat_interval_s": 60.0})
    task_id = await house.stem.enqueue("late")
    await eventually(lambda: worker.stats()["in_flight"])
    worker._board.jobs[task_id].delivery.token -= 1

    go.set()

    await eventually(lambda: worker.stats()["counters"]["lost"] == 1)
    assert (await house.stem.status(task_id)).state is TaskState.RUNNING


async def test_a_handler_can_extend_its_lease(house: House) -> None:
    async def patient(context: TaskContext, args: Mapping[str, Any]) -> None:
        context.extend_lease(3600)
        await asyncio.sleep(30)

    on_loop(house.registry, "patient", patient)
    worker = await house.worker()
    task_id = await house.stem.enqueue("patient")

    await eventually(lambda: task_id in worker._board.jobs and worker._board.jobs[task_id].lease_s > 3500)


@pytest.mark.parametrize(
    ("why", "end", "runs"),
    [
        (Stop.SOFT_LIMIT, TaskState.SUCCEEDED, 1),
        (Stop.UNRENEWED, TaskState.SUCCEEDED, 1),
        (Stop.HARD_LIMIT, TaskState.FAILED, 0),
        (Stop.REVOKED, TaskState.REVOKED, 0),
    ],
)
async def test_a_handler_that_is_stopped_before_its_first_step_gives_its_task_and_its_slot_back(
    memory_house: House, monkeypatch: pytest.MonkeyPatch, why: Stop, end: TaskState, runs: int
) -> None:
    """A loop that was blocked may come to a limit's timer first: the cancelled task never ran to tell of its end."""
    ran: list[int] = []
    stopped: list[Job] = []
    start = dispatch.Dispatcher.begin

    async def note(context: TaskContext, args: Mapping[str, Any]) -> None:
        ran.append(context.token)

    def start_and_stop(self: dispatch.Dispatcher, delivery: Delivery, *args: Any, **options: Any) -> None:
        start(self, delivery, *args, **options)
        if not stopped:
            stopped.append(self._board.jobs[delivery.id])
            self.stop(stopped[0], why)

    monkeypatch.setattr(dispatch.Dispatcher, "begin", start_and_stop)
    on_loop(memory_house.registry, "note", note, TaskOptions(max_retries=0, time_limit=60))
    worker = await memory_house.worker()

    status = await memory_house.stem.wait_for(await memory_house.stem.enqueue("note"), timeout=10)

    assert status.state is end
    assert len(ran) == runs
    assert not stopped[0].holds_slot
    assert worker._board.slots_used == 0
