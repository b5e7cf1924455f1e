"""Commands: what a worker does about them, and what it answers."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping
from typing import Any

from stem.contracts import Logged
from stem.control.controller import Controller
from stem.control.diagnose import WEDGED_AFTER_MS
from stem.errors import SoftTimeLimitExceeded
from stem.messages.command import Command
from stem.messages.envelope import new_task_id
from stem.messages.status import TaskState
from stem.options import TaskOptions
from stem.task import TaskContext
from tests.waiting import eventually
from tests.worker.conftest import House
from tests.worker.handlers import in_thread, on_loop


async def forever(context: TaskContext, args: Mapping[str, Any]) -> None:
    await asyncio.sleep(60)


async def note(context: TaskContext, args: Mapping[str, Any]) -> None:
    return None


async def test_ping_is_answered_by_each_worker_at_once(house: House) -> None:
    workers = [await house.worker(clone=True) for _ in range(3)]
    controller = house.controller
    await controller.ping()

    results = [await controller.ping() for _ in range(5)]

    for result in results:
        assert sorted(worker.id for worker in result.workers) == sorted(worker.id for worker in workers)
        assert not result.silent
    # The best of five: the promise is about Stem, not about what else runs on this machine.
    assert min(result.elapsed_ms for result in results) < 500


async def test_a_blocked_work_loop_still_answers_and_shows_where_it_blocks(house: House) -> None:
    in_handler, asked = threading.Event(), threading.Event()
    seen: dict[str, Any] = {}

    async def blocks(context: TaskContext, args: Mapping[str, Any]) -> str:
        in_handler.set()
        asked.wait(30)  # blocks the loop: what this test is about
        return "once"

    # A long lease: the question is who answers.
    on_loop(house.registry, "blocks", blocks, TaskOptions(visibility_timeout=60))
    worker = await house.worker()
    task_id = await house.stem.enqueue("blocks")

    def ask() -> None:
        async def asking() -> None:
            broker = house.broker.clone()
            controller = Controller(broker, timeout_s=5.0)
            try:
                await controller.ping()
                await eventually(lambda: worker._board.loop_age_s() > WEDGED_AFTER_MS / 1000 + 0.1)
                seen["pings"] = [await controller.ping() for _ in range(5)]
                seen["stack"] = await controller.inspect("stack")
            finally:
                await broker.close()

        try:
            in_handler.wait(10)
            asyncio.run(asking())
        finally:
            asked.set()

    await asyncio.to_thread(ask)

    assert min(ping.elapsed_ms for ping in seen["pings"]) < 500
    assert [ping.workers[0].diagnosis for ping in seen["pings"]] == ["wedged"] * 5
    assert "asked.wait(30)" in str(seen["stack"])
    status = await house.stem.wait_for(task_id, timeout=10)
    assert (status.result, status.token) == ("once", 1)
    assert worker.stats()["counters"]["started"] == 1


async def test_inspect_and_stats_tell_what_runs(house: House) -> None:
    on_loop(house.registry, "forever", forever)
    worker = await house.worker(queues=["a", "b"])
    task_id = await house.stem.enqueue("forever", options=TaskOptions(queue="a"))
    await eventually(lambda: worker.stats()["in_flight"] == 1)
    controller = house.controller

    answers = {
        what: (await controller.inspect(what)).workers[0].data
        for what in ("active", "reserved", "revoked", "registered", "queues", "children", "config", "stack")
    }
    stats = (await controller.stats()).workers[0].data

    assert [row["id"] for row in answers["active"]["items"]] == [task_id]
    assert answers["reserved"]["count"] == answers["revoked"]["count"] == 0
    assert [row["name"] for row in answers["registered"]["items"]] == ["forever"]
    assert [row["name"] for row in answers["queues"]["items"]] == ["a", "b"]
    assert answers["config"]["concurrency"] == 4
    assert answers["stack"]["threads"]
    assert (stats["in_flight"], stats["counters"]["started"], stats["pools"]["slots_used"]) == (1, 1, 1)


async def test_a_running_async_task_is_revoked_and_the_reply_says_how(house: House) -> None:
    on_loop(house.registry, "forever", forever)
    worker = await house.worker()
    task_id = await house.stem.enqueue("forever")
    await eventually(lambda: worker.stats()["in_flight"] == 1)

    result = await house.controller.revoke([task_id], terminate=True, wait_s=10)

    assert [(item.target, item.outcome) for item in result.items] == [(task_id, "cancelled")]
    assert (await house.stem.status(task_id)).state is TaskState.REVOKED


async def test_a_running_thread_is_revoked_softly(house: House) -> None:
    begun = threading.Event()

    def busy(context: TaskContext, args: Mapping[str, Any]) -> None:
        begun.set()
        try:
            while True:
                time.sleep(0.005)
        except SoftTimeLimitExceeded:
            raise

    in_thread(house.registry, "busy", busy)
    await house.worker()
    task_id = await house.stem.enqueue("busy")
    await eventually(begun.is_set)

    result = await house.controller.revoke([task_id], terminate=True, wait_s=10)

    assert [item.outcome for item in result.items] == ["soft"]
    assert (await house.stem.status(task_id)).state is TaskState.REVOKED


async def test_a_polite_revoke_lets_the_handler_look_and_leave(house: House) -> None:
    begun = threading.Event()

    def polite(context: TaskContext, args: Mapping[str, Any]) -> str:
        begun.set()
        while not context.is_revoked:
            time.sleep(0.005)
        raise RuntimeError("revoked, so I left")

    in_thread(house.registry, "polite", polite)
    # No beat meanwhile: it would tell of the revoke as well, and the handler could be gone before the command comes.
    await house.worker(config={"heartbeat_interval_s": 600.0, "visibility_timeout_s": 3600.0})
    task_id = await house.stem.enqueue("polite")
    await eventually(begun.is_set)

    result = await house.controller.revoke([task_id], wait_s=10)

    assert [item.outcome for item in result.items] == ["finished"]
    assert (await house.stem.status(task_id)).state is TaskState.REVOKED


async def test_no_task_starts_between_a_confirmed_pause_and_the_resume(house: House) -> None:
    started: list[float] = []

    async def mark(context: TaskContext, args: Mapping[str, Any]) -> None:
        started.append(time.monotonic())

    on_loop(house.registry, "mark", mark)
    await house.worker(concurrency=8)
    await house.worker(concurrency=8, clone=True)
    stop = asyncio.Event()

    async def produce() -> None:
        while not stop.is_set():
            await house.stem.enqueue("mark")
            await asyncio.sleep(0.001)

    producing = asyncio.create_task(produce())
    await eventually(lambda: len(started) > 20)
    broken: list[float] = []
    for _ in range(8):
        paused = await house.controller.pause("queue", ["default"])
        at = time.monotonic()
        assert (paused.failed, len(paused.silent)) == (0, 0)
        await asyncio.sleep(0.05)
        until = time.monotonic()
        await house.controller.resume("queue", ["default"])
        broken += [one for one in started if at < one < until]
        seen = len(started)
        await eventually(lambda seen=seen: len(started) > seen)  # type: ignore[misc] # bound early on purpose
    stop.set()
    await producing

    assert broken == []


async def test_a_paused_worker_takes_nothing_and_says_so(house: House) -> None:
    on_loop(house.registry, "note", note)
    worker = await house.worker(name="alone")
    await house.controller.pause("worker", ["alone"])
    task_id = await house.stem.enqueue("note")
    await asyncio.sleep(0.3)
    assert worker.stats()["counters"]["started"] == 0

    await house.controller.resume("worker", ["alone"])

    assert (await house.stem.wait_for(task_id, timeout=10)).succeeded


async def test_a_drained_worker_finishes_answers_and_takes_work_again(house: House) -> None:
    go = asyncio.Event()

    async def gated(context: TaskContext, args: Mapping[str, Any]) -> None:
        await go.wait()

    on_loop(house.registry, "gated", gated)
    worker = await house.worker()
    first = await house.stem.enqueue("gated")
    await eventually(lambda: worker.stats()["in_flight"] == 1)

    draining = asyncio.create_task(house.controller.drain([worker.id], wait_s=10))
    await eventually(lambda: worker.stats()["state"] == "draining")
    second = await house.stem.enqueue("gated")
    assert len((await house.controller.ping()).workers) == 1
    go.set()
    drained = await draining

    assert drained.failed == 0
    assert (await house.stem.wait_for(first, timeout=5)).succeeded
    assert (await house.stem.status(second)).state is TaskState.QUEUED
    await house.controller.undrain([worker.id])
    assert (await house.stem.wait_for(second, timeout=10)).succeeded


async def test_shutdown_is_answered_by_the_goodbye(house: House) -> None:
    worker = await house.worker()

    result = await house.controller.shutdown([worker.id], wait_s=10)

    assert (result.failed, len(result.silent)) == (0, 0)
    assert await worker.wait() == 0
    seen = {one.heartbeat.id: one.heartbeat.state for one in await house.broker.presence.workers()}
    assert seen[worker.id] == "stopped"


async def test_an_unknown_command_is_answered_unsupported(house: House) -> None:
    worker = await house.worker()
    command = Command(id=new_task_id(), type="levitate")
    await house.broker.control.issue(command)

    replies = await house.broker.control.replies(command.id, timeout_s=5)

    assert [(reply.worker, reply.ok, reply.error_code) for reply in replies] == [(worker.id, False, "unsupported")]
    assert "Stem" in replies[0].error_message


async def test_a_repeated_id_is_applied_once_and_a_late_question_not_at_all(memory_house: House) -> None:
    worker = await memory_house.worker()
    responder = worker._vitals._responder
    command = Command(id=new_task_id(), type="ping", args={"nonce": "n"}, timeout_ms=5_000)
    await memory_house.broker.control.issue(command)
    assert len(await memory_house.broker.control.replies(command.id, timeout_s=5)) == 1

    late = Command(id="late", type="ping", timeout_ms=100)
    logged = [
        Logged(epoch=1, issued_at_ms=2_000, command=command.encode()),
        Logged(epoch=2, issued_at_ms=1_000, command=late.encode()),
        Logged(epoch=3, issued_at_ms=1_000, command=b"\xc1"),
    ]
    admitted: list[Command | None] = []
    worker._vitals.call(lambda: admitted.extend(responder._admitted(one, now_ms=2_000) for one in logged))

    await eventually(lambda: admitted)
    assert admitted == [None, None, None]


async def test_events_flow_only_while_somebody_watches(house: House) -> None:
    on_loop(house.registry, "note", note)
    worker = await house.worker()
    await house.stem.wait_for(await house.stem.enqueue("note"), timeout=10)
    cursor = await house.broker.events.tail()
    assert len(worker._board.events) == 0

    await house.broker.events.watch("me", for_ms=10_000)
    await eventually(lambda: worker._board.watched)
    task_id = await house.stem.enqueue("note")
    kinds: list[str] = []

    async def seen() -> bool:
        nonlocal cursor
        batch = await house.broker.events.read(cursor, timeout_s=0.5)
        cursor = batch.cursor
        kinds.extend(event.kind for event in batch.events if event.task_id == task_id)
        return "task.succeeded" in kinds

    await eventually(seen)
    assert kinds == ["task.received", "task.started", "task.succeeded"]
