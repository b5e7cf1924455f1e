"""Lifecycle signals: who is called, in which order, and that nobody's mistake spreads."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Iterator
from dataclasses import FrozenInstanceError, fields
from datetime import UTC, datetime
from typing import Any

import pytest

from stem.errors import ConfigError
from stem.signals import NAMES, StemSignals, TaskRetry, TaskSucceeded, WorkerReady
from tests.waiting import eventually

CATALOGUE = {
    *("before_task_publish", "after_task_publish", "task_received", "task_prerun", "task_postrun", "task_retry"),
    *("task_succeeded", "task_failed", "task_revoked", "task_expired", "worker_init", "worker_ready"),
    *("worker_stopping", "worker_shutdown", "worker_heartbeat", "worker_child_init", "worker_child_shutdown"),
    *("control_command_received", "control_command_completed"),
}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Signals belong to the process: each test gives them back silent."""
    yield
    StemSignals.clear()
    StemSignals.configure()


def succeeded(task: str = "t", worker: str = "host-1-a", worker_name: str = "w1") -> TaskSucceeded:
    return TaskSucceeded(id="1", task=task, queue="q", worker=worker, worker_name=worker_name)


def test_the_catalogue_is_complete_and_each_signal_can_be_connected() -> None:
    assert set(NAMES) == CATALOGUE
    for name in NAMES:
        signal = StemSignals.named(name)
        before = StemSignals.has(name)  # another test's application may have been imported into this process
        connection = getattr(StemSignals, f"on_{name}")(lambda event, context: None)
        assert StemSignals.has(name)
        assert signal is getattr(StemSignals, name)
        connection.disconnect()
        assert StemSignals.has(name) == before


def test_payloads_are_frozen_and_all_fields_are_keywords() -> None:
    for name in NAMES:
        event = StemSignals.named(name).event
        assert all(each.kw_only for each in fields(event)), name
        assert event.__doc__, name
        assert not inspect.isabstract(event)
    with pytest.raises(FrozenInstanceError):
        succeeded().task = "other"  # type: ignore[misc]  # the point of the test


async def test_the_sample_of_the_documentation_works() -> None:
    seen: list[Any] = []
    StemSignals.on_task_retry(lambda event, context: seen.append(event.next_retry_at))
    at = datetime(2025, 1, 1, tzinfo=UTC)

    await StemSignals.emit("task_retry", TaskRetry(id="1", task="t", queue="q", next_retry_at=at))

    assert [at] == seen


async def test_callbacks_are_called_by_priority_then_in_order() -> None:
    seen: list[str] = []

    async def slow(event: object, context: object) -> None:
        await asyncio.sleep(0)
        seen.append("slow first")

    StemSignals.on_task_succeeded(lambda event, context: seen.append("b"))
    StemSignals.on_task_succeeded(slow, priority=10)
    StemSignals.on_task_succeeded(lambda event, context: seen.append("c"))
    StemSignals.on_task_succeeded(lambda event, context: seen.append("last"), priority=-1)

    await StemSignals.emit("task_succeeded", succeeded())

    assert seen == ["slow first", "b", "c", "last"]


async def test_callbacks_can_ask_for_one_task_and_one_worker() -> None:
    seen: list[str] = []
    StemSignals.on_task_succeeded(lambda event, context: seen.append("task"), task="wanted")
    StemSignals.on_task_succeeded(lambda event, context: seen.append("by name"), worker="w2")
    StemSignals.on_task_succeeded(lambda event, context: seen.append("by id"), worker="host-2-b")
    StemSignals.on_worker_ready(lambda event, context: seen.append("ready"), task="wanted")

    await StemSignals.emit("task_succeeded", succeeded())
    assert seen == []
    await StemSignals.emit("task_succeeded", succeeded("wanted", "host-2-b", "w2"))
    await StemSignals.emit("worker_ready", WorkerReady(worker="host-2-b"))

    assert seen == ["task", "by name", "by id"]


async def test_a_failing_callback_is_logged_and_stops_nobody(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[str] = []

    def bad(event: object, context: object) -> None:
        raise RuntimeError("plain")

    async def bad_async(event: object, context: object) -> None:
        raise RuntimeError("async")

    StemSignals.on_task_succeeded(bad)
    StemSignals.on_task_succeeded(bad_async)
    StemSignals.on_task_succeeded(lambda event, context: seen.append("reached"))

    with caplog.at_level(logging.ERROR, "stem.signals"):
        await StemSignals.emit("task_succeeded", succeeded())
        StemSignals.emit_nowait("task_succeeded", succeeded())
        await eventually(lambda: len(caplog.records) == 4)

    assert seen == ["reached", "reached"]
    assert all("task_succeeded: callback" in record.message for record in caplog.records)


@pytest.mark.parametrize("error", [asyncio.CancelledError(), SystemExit(3)], ids=repr)
async def test_what_ends_tasks_and_processes_is_only_logged_too(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[str] = []

    def bad(event: object, context: object) -> None:
        raise error

    async def bad_async(event: object, context: object) -> None:
        raise error

    StemSignals.on_task_succeeded(bad)
    StemSignals.on_task_succeeded(bad_async)
    StemSignals.on_task_succeeded(lambda event, context: seen.append("reached"))

    with caplog.at_level(logging.ERROR, "stem.signals"):
        await StemSignals.emit("task_succeeded", succeeded())
        StemSignals.emit_nowait("task_succeeded", succeeded())
        await eventually(lambda: len(caplog.records) == 4)

    assert seen == ["reached", "reached"]


def test_a_plain_callback_that_would_cancel_is_only_logged_where_no_loop_runs(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def bad(event: object, context: object) -> None:
        raise asyncio.CancelledError

    StemSignals.on_task_succeeded(bad)

    StemSignals.emit_nowait("task_succeeded", succeeded())

    assert len(caplog.records) == 1


def test_an_interrupt_passes() -> None:
    def interrupted(event: object, context: object) -> None:
        raise KeyboardInterrupt

    StemSignals.on_task_succeeded(interrupted)

    with pytest.raises(KeyboardInterrupt):
        StemSignals.emit_nowait("task_succeeded", succeeded())


async def test_a_cancelled_emit_is_cancelled() -> None:
    began = asyncio.Event()

    async def forever(event: object, context: object) -> None:
        began.set()
        await asyncio.Event().wait()

    StemSignals.on_task_succeeded(forever)
    emitting = asyncio.create_task(StemSignals.emit("task_succeeded", succeeded()))
    await began.wait()
    emitting.cancel()

    with pytest.raises(asyncio.CancelledError):
        await emitting


async def test_emit_nowait_starts_async_callbacks_on_the_loop() -> None:
    done = asyncio.Event()

    async def callback(event: object, context: object) -> None:
        done.set()

    StemSignals.on_task_succeeded(callback)
    StemSignals.emit_nowait("task_succeeded", succeeded())

    await asyncio.wait_for(done.wait(), 5)


def test_without_a_loop_async_callbacks_are_skipped_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    async def callback(event: object, context: object) -> None:
        raise AssertionError("not called")

    StemSignals.on_task_succeeded(callback)
    StemSignals.emit_nowait("task_succeeded", succeeded())

    assert caplog.messages == ["signal task_succeeded: an async callback was skipped, no event loop runs here"]


async def test_disconnecting_twice_and_while_emitting_is_safe() -> None:
    seen: list[str] = []
    connection = StemSignals.on_task_succeeded(lambda event, context: connection())
    StemSignals.on_task_succeeded(lambda event, context: seen.append("second"))

    await StemSignals.emit("task_succeeded", succeeded())
    connection.disconnect()
    await StemSignals.emit("task_succeeded", succeeded())

    assert seen == ["second", "second"]


async def test_signals_can_be_switched_off_all_or_by_name() -> None:
    seen: list[str] = []
    StemSignals.on_task_succeeded(lambda event, context: seen.append("succeeded"))
    StemSignals.on_worker_ready(lambda event, context: seen.append("ready"))

    StemSignals.configure(disabled=["task_succeeded"])
    assert not StemSignals.has("task_succeeded")
    await StemSignals.emit("task_succeeded", succeeded())
    await StemSignals.emit("worker_ready", WorkerReady(worker="w"))
    assert seen == ["ready"]

    StemSignals.configure(enabled=False)
    StemSignals.emit_nowait("worker_ready", WorkerReady(worker="w"))
    assert seen == ["ready"]


def test_unknown_signals_and_things_that_are_no_callback_are_refused() -> None:
    with pytest.raises(ConfigError, match="no signal 'task_done'"):
        StemSignals.named("task_done")
    with pytest.raises(ConfigError, match="no signal"):
        StemSignals.configure(disabled=["nope"])
    with pytest.raises(ConfigError, match="str is no callback"):
        StemSignals.on_task_retry("print")  # type: ignore[arg-type]  # the point of the test
