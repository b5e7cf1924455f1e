"""The worker's small parts, each alone."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stem.adapters.memory import InMemoryBroker
from stem.client import Stem
from stem.contracts import Delivery, Outcome, ServerInfo
from stem.errors import (
    BrokerRefusedError,
    BrokerUnreachableError,
    ConfigError,
    DecodeError,
    NewerVersionError,
    SignatureError,
    StemError,
    UnknownTaskError,
)
from stem.messages.status import TaskState
from stem.registry import SimpleTaskRegistry
from stem.worker import Worker, WorkerLifecycleConfig, banner, host, logs, stacks, verdict
from stem.worker.loops import keep_alive
from stem.worker.outage import Outages
from stem.worker.wheel import Wheel
from tests.waiting import eventually, wait_until
from tests.worker.conftest import House

# ---------------------------------------------------------------------------------------------------------------- loops


async def test_a_loop_that_dies_is_started_again() -> None:
    runs = []

    async def body() -> None:
        runs.append(1)
        if len(runs) < 3:
            raise ExceptionGroup("several", [ConnectionError("x")])

    await keep_alive("test", body, hopeless=lambda name: None, pause_s=0.001)

    assert len(runs) == 3


async def test_a_loop_that_keeps_dying_is_hopeless() -> None:
    told: list[str] = []

    async def body() -> None:
        raise ValueError

    await keep_alive("test", body, hopeless=told.append, pause_s=0.0)

    assert told == ["test"]


def test_an_outage_is_told_once_and_its_delays_grow_to_three_seconds(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "stem.worker")
    outage = Outages().of("tasks")

    delays = [outage.failed(BrokerUnreachableError("gone")) for _ in range(20)]
    outage.over()
    outage.over()

    assert [record.message.split()[0] for record in caplog.records] == ["broker.away", "broker.back"]
    assert delays[0] <= 0.1
    assert 1.5 <= max(delays[-8:]) <= 3.0


def test_all_loops_together_tell_one_outage(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "stem.worker")
    outages = Outages()
    loops = [outages.of(name) for name in ("tasks", "heartbeat", "sweep")]

    for outage in loops:
        outage.failed(BrokerUnreachableError("gone"))
    for outage in loops[:2]:
        outage.over()
    loops[0].failed(BrokerUnreachableError("gone again, while one is still away"))
    loops[0].over()
    assert [record.message.split()[0] for record in caplog.records] == ["broker.away"]
    loops[2].over()

    assert [record.message.split()[0] for record in caplog.records] == ["broker.away", "broker.back"]


def test_another_reason_during_an_outage_is_told_too(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "stem.worker")
    outages = Outages()
    tasks, heartbeat = outages.of("tasks"), outages.of("heartbeat")

    tasks.failed(BrokerUnreachableError("gone"))
    tasks.failed(BrokerRefusedError("no", code="WRONGPASS"))
    heartbeat.failed(BrokerRefusedError("no", code="WRONGPASS"))

    assert [record.levelname for record in caplog.records] == ["WARNING", "ERROR"]


def test_a_loop_that_is_started_again_does_not_leave_its_outage_behind(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "stem.worker")
    outages = Outages()
    outages.of("sweep").failed(BrokerUnreachableError("gone"))

    outages.of("sweep")

    assert [record.message.split()[0] for record in caplog.records] == ["broker.away", "broker.back"]


def test_missing_rights_are_hopeless_only_when_they_stay_away() -> None:
    told: list[str] = []
    outages = Outages(patience_s=0.0, hopeless=lambda error: told.append(error.code))
    outage = outages.of("tasks")

    outage.failed(BrokerRefusedError("no", code="NOPERM"))
    outage.failed(BrokerUnreachableError("gone"))
    outage.failed(BrokerRefusedError("no", code="NOPERM"))
    outage.over()
    outage.failed(BrokerRefusedError("no", code="NOPERM"))
    assert told == []
    outage.failed(BrokerRefusedError("no", code="NOPERM"))
    outage.failed(BrokerRefusedError("no", code="NOPERM"))

    assert told == ["NOPERM"]


def test_missing_rights_are_an_error(caplog: pytest.LogCaptureFixture) -> None:
    Outages().of("tasks").failed(BrokerRefusedError("no", code="NOPERM"))

    assert caplog.records[0].levelname == "ERROR"


# ---------------------------------------------------------------------------------------------------------------- wheel


async def test_one_timer_serves_all_limits_in_order() -> None:
    wheel, rung = Wheel(asyncio.get_running_loop()), []

    wheel.after(0.03, lambda: True, lambda: rung.append("second"))
    wheel.after(0.01, lambda: True, lambda: rung.append("first"))
    wheel.after(0.02, lambda: False, lambda: rung.append("dead"))
    await eventually(lambda: len(rung) == 2)

    assert rung == ["first", "second"]
    wheel.close()


async def test_what_is_over_does_not_pile_up() -> None:
    wheel = Wheel(asyncio.get_running_loop())

    for _ in range(10_000):
        wheel.after(3600, lambda: False, lambda: None)

    assert len(wheel) < 2_000
    wheel.close()


# -------------------------------------------------------------------------------------------------------------- verdict


def delivery(**fields: Any) -> Delivery:
    return Delivery(**{"id": "i", "task": "t", "token": 1, "queue": "q", "body": b"", **fields})


@pytest.mark.parametrize(("give_backs", "delay_ms"), [(0, 1_000), (1, 2_000), (4, 16_000), (5, 30_000), (90, 30_000)])
def test_an_unknown_name_comes_back_ever_later(give_backs: int, delay_ms: int) -> None:
    settlement = verdict.unreadable(delivery(give_backs=give_backs), UnknownTaskError("t"))

    assert (settlement.outcome, settlement.delay_ms, settlement.unknown) == (Outcome.GIVE_BACK, delay_ms, True)


def test_after_an_hour_an_unknown_name_is_buried() -> None:
    late_ms = 1_000 + verdict.GIVE_UP_AFTER_MS
    old = delivery(give_backs=200, first_give_back_ms=1_000, started_at_ms=late_ms)

    settlement = verdict.unreadable(old, UnknownTaskError("t"))

    assert (settlement.outcome, settlement.reason) == (Outcome.DEAD, "unregistered")


def test_a_newer_version_is_given_back_and_a_malformed_one_buried() -> None:
    newer = verdict.unreadable(delivery(), NewerVersionError("v2"))
    malformed = verdict.unreadable(delivery(give_backs=1), DecodeError("x"))

    assert (newer.outcome, newer.unknown) == (Outcome.GIVE_BACK, True)
    assert (malformed.outcome, malformed.reason) == (Outcome.DEAD, "malformed")


@pytest.mark.parametrize("error", [DecodeError("x"), SignatureError("x")])
def test_what_may_have_changed_on_its_way_is_read_once_more(error: StemError) -> None:
    first = verdict.unreadable(delivery(), error)
    second = verdict.unreadable(delivery(give_backs=1), error)

    assert (first.outcome, first.delay_ms, first.unknown) == (Outcome.GIVE_BACK, 0, True)
    assert second.outcome is Outcome.DEAD


# ----------------------------------------------------------------------------------------------------------------- host


@pytest.mark.parametrize(("text", "cores"), [("max 100000", None), ("150000 100000", 1.5), ("rubbish", None)])
def test_the_cgroup_quota_is_respected(tmp_path: Path, text: str, cores: float | None) -> None:
    (tmp_path / "cpu.max").write_text(text)

    assert host.cgroup_quota(tmp_path) == cores


@pytest.mark.parametrize(("quota", "cores"), [("50000 100000", 1), ("100000 100000", 1), ("max 100000", None)])
def test_concurrency_follows_the_cgroup_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, cores: int | None
) -> None:
    """Ten slots per core for a worker that is not told how many: of the cores that it may use, not of the machine's."""
    (tmp_path / "cpu.max").write_text(quota)
    monkeypatch.setattr(host, "_CGROUP", tmp_path)
    expected = len(os.sched_getaffinity(0)) if cores is None else cores
    registry = SimpleTaskRegistry()

    @Stem(InMemoryBroker(), registry).task("nothing")
    async def nothing() -> None: ...

    assert host.cores() == expected
    assert Worker(broker=InMemoryBroker(), registry=registry).concurrency == 10 * expected


def test_ids_are_unique_and_well_formed() -> None:
    from stem.messages.names import is_name

    ids = {host.new_worker_id("a" * 60) for _ in range(100)}

    assert len(ids) == 100
    assert all(is_name("worker", one) for one in ids)


# ----------------------------------------------------------------------------------------------------------------- logs


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    chosen = logging.getLogger("stem.test-logs")
    chosen.propagate = False
    chosen.setLevel(logging.DEBUG)
    yield chosen
    chosen.handlers.clear()


@pytest.mark.parametrize("style", [logs.ConsoleFormatter, logs.JsonFormatter])
def test_each_event_is_one_printable_line(logger: logging.Logger, style: Any) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(style("w1"))
    logger.addHandler(handler)

    try:
        raise ValueError("a\nb")
    except ValueError:
        logger.exception("task.failed", extra={"error": "x\x1b[2J\ny", "task_id": "i\u202e"})
    handler.handle(logging.LogRecord("stem.x", logging.INFO, "f", 1, "wrong %d", ("format",), None))

    lines = stream.getvalue().splitlines()
    assert len(lines) == 2
    assert all(line.isprintable() for line in lines)


def test_json_lines_have_the_documented_fields(logger: logging.Logger) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.JsonFormatter("w1"))
    logger.addHandler(handler)

    logger.warning("task.failed", extra={"task_id": "i", "task": "t", "queue": "q", "attempt": 2, "duration_ms": 5})

    line = json.loads(stream.getvalue())
    assert (line["level"], line["event"], line["worker"], line["task_id"]) == ("warning", "task.failed", "w1", "i")
    assert (line["attempt"], line["duration_ms"]) == (2, 5)
    assert line["ts"].endswith("Z")


async def test_an_embedded_worker_leaves_the_root_logger_alone(memory_house: House) -> None:
    before = list(logging.getLogger().handlers), logging.getLogger().level

    await memory_house.worker()

    assert (list(logging.getLogger().handlers), logging.getLogger().level) == before


# --------------------------------------------------------------------------------------------------------------- banner


def test_the_banner_warns_of_what_will_hurt() -> None:
    info = ServerInfo(kind="valkey", version="9", url="u", namespace="n", policy="allkeys-lru", persistent=False)

    found = " | ".join(banner.warnings(info, SimpleTaskRegistry(), ("default",), default_queue="default"))

    assert "noeviction" in found
    assert "append-only" in found
    assert "no task is registered" in found


# --------------------------------------------------------------------------------------------------------------- stacks


async def test_the_stack_shows_where_a_coroutine_waits() -> None:
    async def inner() -> None:
        await asyncio.sleep(30)

    async def outer() -> None:
        await inner()

    task = asyncio.create_task(outer(), name="the-task")
    await asyncio.sleep(0)

    (row,) = [row for row in stacks.task_stacks(asyncio.get_running_loop()) if row["task"] == "the-task"]

    assert "in outer" in row["stack"][0]
    assert "in inner" in row["stack"][1]
    task.cancel()


# --------------------------------------------------------------------------------------------------------------- worker


async def test_a_worker_is_started_once(memory_house: House) -> None:
    worker = await memory_house.worker()

    with pytest.raises(ConfigError, match="started before"):
        await worker.start()


async def test_a_worker_that_the_broker_does_not_let_in_is_over(
    memory_house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(self: object, beat: object) -> None:
        raise BrokerRefusedError("no rights", code="NOPERM")

    monkeypatch.setattr(type(memory_house.broker.presence), "beat", refuse)
    worker = await memory_house.worker(start=False, health_port=0, config={"health_host": "127.0.0.1"})

    with pytest.raises(BrokerRefusedError):
        await worker.start()

    async with asyncio.timeout(5):
        assert await worker.shutdown() == await worker.wait() == 1


async def test_a_worker_that_may_not_react_to_signals_takes_nothing(memory_house: House) -> None:
    worker = await memory_house.worker(
        start=False,
        health_port=0,
        config={"health_host": "127.0.0.1"},
        lifecycle=WorkerLifecycleConfig(install_signal_handlers=True),
    )

    async def elsewhere() -> int:
        with pytest.raises(ConfigError, match="only the main thread"):
            await worker.start()
        async with asyncio.timeout(5):
            return await worker.shutdown()

    assert await asyncio.to_thread(lambda: asyncio.run(elsewhere())) == 0
    assert worker._health is None


async def test_a_loop_of_the_worker_that_dies_does_not_stop_it(
    memory_house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    @memory_house.stem.task("echo")
    async def echo() -> str:
        return "ran"

    worker: Worker = await memory_house.worker()
    exchange = memory_house.broker.exchange
    failures: list[int] = []

    async def broken(*args: Any) -> Any:
        if len(failures) < 3:
            failures.append(1)
            raise RuntimeError("a bug in the adapter")
        return await exchange(*args)

    monkeypatch.setattr(memory_house.broker, "exchange", broken)
    statuses = [await memory_house.stem.wait_for(await echo.enqueue(), timeout=10) for _ in range(2)]

    assert [status.result for status in statuses] == ["ran", "ran"]
    assert len(failures) == 3
    assert worker.stats()["counters"]["succeeded"] == 2


async def test_a_stopped_worker_leaves_no_thread_behind(memory_house: House) -> None:
    before = {thread.name for thread in threading.enumerate()}
    worker = await memory_house.worker()
    began = time.monotonic()

    assert await worker.shutdown() == 0

    assert time.monotonic() - began < 2
    await eventually(lambda: {thread.name for thread in threading.enumerate()} <= before)


def test_tasks_are_handed_back_when_the_application_closes_its_loop() -> None:
    broker = InMemoryBroker()
    stem = Stem(broker)

    @stem.task("slow")
    async def slow() -> None:
        await asyncio.sleep(60)

    async def program() -> str:
        worker = Worker(broker=broker, registry=stem.registry)
        await worker.start()
        task_id = await slow.enqueue()
        await eventually(lambda: worker.stats()["in_flight"])
        return task_id

    async def state(task_id: str) -> TaskState:
        return (await Stem(broker).status(task_id)).state

    task_id = asyncio.run(program())

    wait_until(lambda: asyncio.run(state(task_id)) is TaskState.QUEUED)
    wait_until(lambda: "stem-vitals" not in {thread.name for thread in threading.enumerate()})
