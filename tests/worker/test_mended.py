"""What a reading of the worker found: values that spoil a beat, odd delays, limits of what has not begun, backlogs."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import re
import signal
import threading
import time
import weakref
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from stem.contracts import FetchRequest, NewTask, Outcome, Settlement
from stem.errors import InvalidInputError, Retry
from stem.messages.status import TaskState
from stem.options import TaskOptions
from stem.retry import FixedRetryStrategy
from stem.task import TaskContext
from stem.worker import WorkerLifecycleConfig, logs, zombies
from stem.worker.wheel import Wheel
from tests.waiting import eventually
from tests.worker.conftest import House
from tests.worker.handlers import in_thread, on_loop


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize("spoil", ["changed later", "deep"])
async def test_no_progress_stops_the_heartbeats(memory_house: House, spoil: str) -> None:
    release = asyncio.Event()

    async def tells(context: TaskContext, args: Mapping[str, Any]) -> None:
        info: dict[str, Any] = {"page": 1}
        context.progress(info if spoil == "changed later" else deep(31))
        info["at"] = datetime.now()  # no message can carry that
        await release.wait()

    on_loop(memory_house.registry, "tells", tells)
    worker = await memory_house.worker(config={"heartbeat_interval_s": 0.1})
    task_id = await memory_house.stem.enqueue("tells")

    shown = {"page": 1} if spoil == "changed later" else None

    async def listed() -> bool:
        (seen,) = await memory_house.broker.presence.workers()
        return [task.progress for task in seen.heartbeat.running if task.id == task_id] == [shown]

    await eventually(listed)
    await eventually(lambda: worker._board.progress == {})
    before = (await memory_house.broker.presence.workers())[0].at_ms

    async def beats() -> bool:
        return (await memory_house.broker.presence.workers())[0].at_ms > before

    await eventually(beats)
    release.set()


@pytest.mark.parametrize("countdown", [math.inf, math.nan, -1, "soon", True, timedelta(days=-1), 1e12])
def test_a_retry_in_no_time_that_can_be_is_refused_where_it_is_raised(countdown: Any) -> None:
    with pytest.raises(InvalidInputError, match="countdown="):
        Retry(countdown=countdown)


def test_a_retry_takes_a_timedelta() -> None:
    assert Retry(countdown=timedelta(minutes=5)).countdown == 300.0


class Odd(FixedRetryStrategy):
    def __init__(self, said: float) -> None:
        super().__init__(0.01)
        self.said = said

    def delay_s(self, attempt: int) -> float:
        return self.said


@pytest.mark.parametrize("said", [math.inf, math.nan])
@pytest.mark.parametrize("place", [on_loop, in_thread])
async def test_a_strategy_that_says_nonsense_costs_no_task_its_end(
    memory_house: House, said: float, place: Any
) -> None:
    def fails(context: TaskContext, args: Mapping[str, Any]) -> None:
        raise KeyError("x")

    async def fails_on_loop(context: TaskContext, args: Mapping[str, Any]) -> None:
        raise KeyError("x")

    function = fails if place is in_thread else fails_on_loop
    place(memory_house.registry, "fails", function, TaskOptions(max_retries=1, retry_strategy=Odd(said)))
    await memory_house.worker()
    task_id = await memory_house.stem.enqueue("fails")

    async def waits() -> bool:
        (status,) = await memory_house.broker.statuses([task_id])
        return status is not None and status.state is TaskState.RETRYING

    await eventually(waits)
    status = await memory_house.stem.wait_for(task_id, timeout=10)
    assert status.state is TaskState.FAILED


def hold(release: threading.Event) -> Any:
    def held(context: TaskContext, args: Mapping[str, Any]) -> None:
        release.wait(20)

    return held


async def test_the_limit_of_a_plain_handler_runs_from_its_start(memory_house: House) -> None:
    """Sixteen may wait for four threads; what has not run is not ended at its time limit."""
    release = threading.Event()
    in_thread(memory_house.registry, "held", hold(release))
    in_thread(memory_house.registry, "short", lambda context, args: "ran", TaskOptions(time_limit=1.0, max_retries=0))
    on_loop(memory_house.registry, "other", lambda context, args: asyncio.sleep(0))
    worker = await memory_house.worker(concurrency=None)
    threads = worker._threads.size
    for _ in range(threads):
        await memory_house.stem.enqueue("held")
    waiting = await memory_house.stem.enqueue("short")
    await eventually(lambda: waiting in worker._board.jobs)
    await asyncio.sleep(1.5)
    release.set()

    status = await memory_house.stem.wait_for(waiting, timeout=10)
    assert (status.state, status.result) == (TaskState.SUCCEEDED, "ran")


async def test_a_worker_without_a_thread_left_leaves_for_another(
    memory_house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zombies, "PATIENCE_S", 0.3)
    release = threading.Event()
    in_thread(memory_house.registry, "held", hold(release), TaskOptions(time_limit=0.1, max_retries=0))
    on_loop(memory_house.registry, "other", lambda context, args: asyncio.sleep(0))
    worker = await memory_house.worker(concurrency=None)
    try:
        for _ in range(worker._threads.size):
            await memory_house.stem.enqueue("held")

        assert await asyncio.wait_for(worker.wait(), 20) == 70
    finally:
        release.set()


async def test_a_backlog_of_its_own_keeps_no_command_from_its_confirmation(memory_house: House) -> None:
    release = threading.Event()
    in_thread(memory_house.registry, "held", hold(release))
    in_thread(memory_house.registry, "waits", lambda context, args: "ran")
    on_loop(memory_house.registry, "other", lambda context, args: asyncio.sleep(0))
    worker = await memory_house.worker(concurrency=None, queues=["default", "side"])
    try:
        for _ in range(worker._threads.size):
            await memory_house.stem.enqueue("held")
        # Else one of those that are to wait may find a thread.
        await eventually(lambda: sum(job.began for job in worker._board.jobs.values()) == worker._threads.size)
        side = TaskOptions(queue="side")
        waiting = [await memory_house.stem.enqueue("waits") for _ in range(3)]
        aside = [await memory_house.stem.enqueue("waits", options=side) for _ in range(3)]
        await eventually(lambda: {*waiting, *aside} <= worker._board.jobs.keys())

        paused = await memory_house.controller.pause("queue", ["default"])
        assert [one.stage for one in paused.workers] == ["effect"]
        assert set(aside) <= worker._board.jobs.keys(), "what is not paused keeps its place"
        assert not set(waiting) & worker._board.jobs.keys()
        resumed = await memory_house.controller.resume("queue", ["default"])
        assert [one.stage for one in resumed.workers] == ["effect"]
        named = await memory_house.controller.pause("task", ["waits"])
        assert [one.stage for one in named.workers] == ["effect"]
        release.set()
        await asyncio.sleep(0.2)
        assert not any([(await memory_house.stem.status(each)).result for each in (*waiting, *aside)])
        await memory_house.controller.resume("task", ["waits"])
        for each in (*waiting, *aside):
            assert (await memory_house.stem.wait_for(each, timeout=10)).result == "ran"
    finally:
        release.set()


async def test_a_name_that_somebody_knew_since_is_not_unknown_for_an_hour(house: House) -> None:
    broker = house.broker
    await broker.enqueue([NewTask(id="t", task="x", queue="default", body=b"")])

    async def take() -> Any:
        (delivery,) = (await broker.exchange("w", [], FetchRequest(queues=["default"], count=1))).deliveries
        return delivery

    async def give_back(delivery: Any, *, unknown: bool) -> None:
        end = Settlement(id="t", token=delivery.token, outcome=Outcome.GIVE_BACK, reason="r", unknown=unknown)
        await broker.exchange("w", [end], None)

    await give_back(await take(), unknown=True)
    second = await take()
    assert (second.give_backs, second.first_give_back_ms > 0) == (1, True)
    await give_back(second, unknown=False)  # a worker that ran it, and stopped

    third = await take()
    assert (third.give_backs, third.first_give_back_ms) == (0, 0)


async def test_the_wheel_keeps_no_job_alive(memory_house: House) -> None:
    made: list[weakref.ref[Any]] = []

    async def quick(context: TaskContext, args: Mapping[str, Any]) -> None:
        made.append(weakref.ref(context._port))

    on_loop(memory_house.registry, "quick", quick, TaskOptions(time_limit=600.0))
    worker = await memory_house.worker()
    for _ in range(5):
        await memory_house.stem.wait_for(await memory_house.stem.enqueue("quick"), timeout=10)

    def gone() -> bool:
        gc.collect()
        return len(made) == 5 and all(each() is None for each in made)

    await eventually(gone)
    assert len(worker._wheel) == 5


async def test_a_call_that_fails_stops_no_other_timer() -> None:
    wheel, called = Wheel(asyncio.get_running_loop()), []
    handled: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: handled.append(context))

    def fails() -> None:
        raise KeyError("x")

    wheel.after(0.01, lambda: True, fails)
    wheel.after(0.02, lambda: True, lambda: called.append(time.monotonic()))
    await eventually(lambda: called)
    assert len(handled) == 1
    wheel.close()


async def test_a_start_that_is_cancelled_ends_quietly(
    memory_house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    presence: Any = type(memory_house.broker.presence)
    beat, asked = presence.beat, threading.Event()

    async def late(self: Any, sent: Any) -> Any:
        asked.set()
        await asyncio.sleep(0.3)
        return await beat(self, sent)

    monkeypatch.setattr(presence, "beat", late)
    worker = await memory_house.worker(start=False)
    starting = asyncio.create_task(worker.start())
    await eventually(asked.is_set)
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    await worker.shutdown("hard")

    assert "vitals.died" not in caplog.text


def hold_info(house: House, monkeypatch: pytest.MonkeyPatch) -> tuple[asyncio.Event, asyncio.Event]:
    """Let the look at the server, after the worker has registered, last until the second event."""
    census: Any = type(house.broker.census)
    info, asked, go = census.info, asyncio.Event(), asyncio.Event()

    async def slowly(self: Any) -> Any:
        asked.set()
        await go.wait()
        return await info(self)

    monkeypatch.setattr(census, "info", slowly)
    return asked, go


@pytest.mark.parametrize("cancelled", [True, False])
async def test_a_start_that_fails_after_it_has_registered_leaves_no_worker(
    memory_house: House, monkeypatch: pytest.MonkeyPatch, cancelled: bool
) -> None:
    """Its other thread went on to beat: for ever `starting`, without anybody who would take a task."""
    asked, go = hold_info(memory_house, monkeypatch)
    worker = await memory_house.worker(start=False)
    starting = asyncio.create_task(worker.start())
    async with asyncio.timeout(5):
        await asked.wait()

        if cancelled:
            starting.cancel()
        else:
            monkeypatch.setattr("stem.worker.banner.warnings", Mock(side_effect=ValueError))
            go.set()
        with pytest.raises(asyncio.CancelledError if cancelled else ValueError):
            await starting

        await eventually(lambda: not worker._vitals._thread.is_alive())
        assert await worker.wait() == (0 if cancelled else 1)
    assert all(task.done() for task in worker._running)


async def test_a_worker_that_is_stopped_while_it_starts_begins_nothing(
    memory_house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lanes ran on in the application, after its end."""
    asked, go = hold_info(memory_house, monkeypatch)
    worker = await memory_house.worker(start=False)
    starting = asyncio.create_task(worker.start())
    async with asyncio.timeout(5):
        await asked.wait()
        assert await worker.shutdown() == 0

        go.set()
        await starting

    assert not worker.started_well
    assert all(task.done() for task in worker._running)


def test_every_logger_of_the_worker_has_its_fields_spelled_out() -> None:
    root = Path(logs.__file__).parents[1]
    source = "\n".join(path.read_text(encoding="utf-8") for path in root.rglob("*.py"))
    used = set(re.findall(r'getLogger\("(stem\.worker[a-z.]*)"\)', source))

    assert used == set(logs.LOGGERS)
    logs.spell_out()
    for name in used:
        assert logs._SPELLED in logging.getLogger(name).filters


async def test_a_worker_that_takes_nothing_waits_for_no_bell(house: House) -> None:
    """What is enqueued then starts at once on the one that is idle."""

    async def quick(context: TaskContext, args: Mapping[str, Any]) -> str:
        return context.id

    on_loop(house.registry, "quick", quick)
    drained = await house.worker(name="w-drained")
    await eventually(lambda: drained._intake._idle is not None)
    await house.worker(name="w-idle", clone=True)
    await house.controller.drain([drained.id])

    await eventually(lambda: drained._intake._idle is None)
    took_s = []
    for _ in range(3):
        began = time.monotonic()
        await house.stem.wait_for(await house.stem.enqueue("quick"), timeout=10)
        took_s.append(time.monotonic() - began)
    assert min(took_s) < 1.0, "it was left to the look of every two seconds"


@pytest.mark.parametrize(("fleet", "every_s"), [(1, 0.05), (10, 0.05), (100, 0.5), (5_000, 5.0)])
async def test_a_large_fleet_tells_of_its_tasks_less_often(
    memory_house: House, monkeypatch: pytest.MonkeyPatch, fleet: int, every_s: float
) -> None:
    presence: Any = type(memory_house.broker.presence)
    beat = presence.beat

    async def many(self: Any, sent: Any) -> Any:
        return replace(await beat(self, sent), fleet=fleet)

    monkeypatch.setattr(presence, "beat", many)
    worker = await memory_house.worker(config={"heartbeat_interval_s": 0.1})

    await eventually(lambda: worker._board.flush_every_s == every_s)


async def test_a_start_without_a_thread_to_be_had_says_so_and_leaves_nothing(
    memory_house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It said that a thread cannot be joined before it is started, and kept the signals and the port."""
    before = signal.getsignal(signal.SIGTERM)
    lifecycle = WorkerLifecycleConfig(install_signal_handlers=True)
    worker = await memory_house.worker(start=False, health_port=0, lifecycle=lifecycle)
    monkeypatch.setattr(threading.Thread, "start", Mock(side_effect=RuntimeError("can't start new thread")))

    with pytest.raises(RuntimeError, match="new thread"):
        await worker.start()

    assert signal.getsignal(signal.SIGTERM) is before
    assert worker._health is not None
    assert worker._health._listener.fileno() == -1
    assert await worker.wait() == 1
