"""After a pause is confirmed nothing starts until the resume; judged by the times in the ledger, not by the server."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator

import pytest

from stem.messages.status import TaskState
from stem.options import TaskOptions
from stem.task import Signature
from tests.faults.fleet import World, now_ns
from tests.waiting import eventually

ROUNDS = 20
MIXTURE: list[tuple[str, dict[str, float]]] = [
    *[("quick", {})] * 20,
    *[("block", {"seconds": 0.015})] * 2,
    *[("thread_nap", {"seconds": 0.01})] * 3,
]
PER_BATCH = len(MIXTURE)
BATCH_EVERY_S = 0.05


@contextlib.asynccontextmanager
async def _load(world: World, queue: str) -> AsyncIterator[list[str]]:
    """Enqueue 500 tasks a second as long as the block lasts; yields the ids acknowledged so far.

    Some run in threads, and some hold up the work loop: what is delivered behind these starts a while later, and that
    is where a pause that is confirmed too early shows.
    """
    acknowledged: list[str] = []
    stop = asyncio.Event()

    async def produce() -> None:
        options = TaskOptions(queue=queue)
        while not stop.is_set():
            batch = [Signature(name=f"fault.{name}", args=args, options=options) for name, args in MIXTURE]
            for task_id in await world.stem.enqueue_many(batch):
                world.ledger.write("acked", task_id)
                acknowledged.append(task_id)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), BATCH_EVERY_S)

    producer = asyncio.create_task(produce())
    try:
        yield acknowledged
    finally:
        stop.set()
        await producer


async def _start_after(world: World, at_ns: int) -> None:
    async def started() -> bool:
        return bool(world.ledger.read().between(at_ns, now_ns()))

    await eventually(started, 10, what="a start after the resume")


@pytest.mark.slow
async def test_twenty_pauses_under_load_let_nothing_start_between_confirmation_and_resume(world: World) -> None:
    await world.workers("w1", "w2", queues=("flow",), concurrency=4)
    quiet: list[tuple[int, int]] = []

    async with _load(world, "flow") as acknowledged:
        for _ in range(ROUNDS):
            await _start_after(world, now_ns())
            paused = await world.controller.pause("queue", ["flow"], wait_s=5)
            confirmed_ns = now_ns()
            assert (paused.expected, paused.applied) == (2, 2)
            grown = len(acknowledged) + 3 * PER_BATCH
            await eventually(lambda wanted=grown: len(acknowledged) >= wanted, what="more was enqueued meanwhile")  # type: ignore[misc]  # mypy sees no default in a lambda
            quiet.append((confirmed_ns, now_ns()))
            resumed = await world.controller.resume("queue", ["flow"], wait_s=5)
            assert (resumed.expected, resumed.applied) == (2, 2)
    await world.all_final(acknowledged, timeout=15)

    account = world.ledger.read()
    for begin_ns, end_ns in quiet:
        assert account.between(begin_ns, end_ns) == []
    account.check()
    assert len(acknowledged) == len(account.ids("done"))


async def test_a_pause_survives_the_restart_of_all_workers(world: World) -> None:
    old = await world.workers("w1", "w2", queues=("default", "other"))
    await world.controller.pause("queue", ["default"], wait_s=5)
    task_id = await world.enqueue("quick")
    for worker in old:
        worker.send(signal.SIGTERM)
    assert [await worker.exit_code() for worker in old] == [0, 0]

    await world.workers("w1", "w2", queues=("default", "other"))
    marker = await world.enqueue("quick", queue="other")
    await world.reaches(marker, TaskState.SUCCEEDED)

    assert world.ledger.read().starts(task_id) == []
    assert await world.state(task_id) is TaskState.QUEUED
    resumed_ns = now_ns()
    await world.controller.resume("queue", ["default"], wait_s=5)
    await world.reaches(task_id, TaskState.SUCCEEDED)
    (start,) = world.ledger.read().starts(task_id)
    assert start.at_ns > resumed_ns


async def test_a_pause_for_a_while_ends_by_itself(world: World) -> None:
    await world.worker()
    begun_ns = now_ns()
    result = await world.controller.pause("queue", ["default"], for_s=1.2, wait_s=5)
    task_id = await world.enqueue("quick")

    await world.reaches(task_id, TaskState.SUCCEEDED)

    assert (result.expected, result.applied) == (1, 1)
    (start,) = world.ledger.read().starts(task_id)
    after_s = (start.at_ns - begun_ns) / 1e9
    assert 1.2 <= after_s < 1.2 + 3.0
    assert list(await world.broker.census.pauses()) == []


@pytest.mark.parametrize("kind", ["task", "worker"])
async def test_a_paused_task_name_or_worker_starts_nothing_until_it_is_resumed(world: World, kind: str) -> None:
    await world.workers("w1", "w2")
    target = "fault.quick" if kind == "task" else "w1"

    await world.controller.pause("task" if kind == "task" else "worker", [target], wait_s=5)
    paused_ns = now_ns()
    quick = await world.enqueue_some(20, "quick")
    other = await world.enqueue_some(20, "flaky", failures=0)
    await world.all_final(other)
    if kind == "worker":
        await world.all_final(quick)
    account = world.ledger.read()
    resumed_ns = now_ns()
    await world.controller.resume("task" if kind == "task" else "worker", [target], wait_s=5)

    await world.all_final(quick)
    starts = account.between(paused_ns, resumed_ns)
    if kind == "task":
        assert set(other) == {line.id for line in starts}
    else:
        assert {"w2"} == {next(w.name for w in world.fleet if w.pid == line.pid) for line in starts}
    world.ledger.read().check()
