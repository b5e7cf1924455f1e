"""A stuck worker answers, is named wedged with its stack, and gives up its tasks in the end."""

from __future__ import annotations

import asyncio
import json
import time

import pytest

from stem.messages.status import TaskState
from tests.faults.conftest import Worlds
from tests.faults.fleet import World
from tests.faults.gates import make_lock, open_gate, open_lock
from tests.waiting import eventually

LEASE_S = 4.0
"""Long enough for a machine that stalls, and exceeded by a loop that is blocked."""


async def _wedged(world: World) -> None:
    async def diagnosed() -> bool:
        return [pong.diagnosis for pong in (await world.controller.ping()).workers] == ["wedged"]

    await eventually(diagnosed, 10, what="the worker is diagnosed as wedged")


async def test_a_blocked_work_loop_is_named_wedged_with_its_stack_and_runs_its_task_once(world: World) -> None:
    worker = await world.worker()
    lock = world.fleet.folder / "lock"
    task_id = await world.enqueue("block_until", lock=make_lock(lock), lease=LEASE_S)
    await world.started(task_id)
    begun_s = time.monotonic()

    first = await world.controller.ping()  # answered, whatever the diagnosis is this early
    await _wedged(world)
    pings = [await world.controller.ping() for _ in range(5)]
    stack = await world.controller.inspect("stack")
    code, out, err = await world.stemctl("inspect", "stack", "--json")
    await asyncio.sleep(max(0.0, begun_s + 1.25 * LEASE_S - time.monotonic()))  # it keeps its lease meanwhile
    open_lock(lock)

    assert first.replied == 1
    assert {("wedged",)} == {tuple(pong.diagnosis for pong in ping.workers) for ping in pings}
    assert min(ping.elapsed_ms for ping in pings) < 100
    (answer,) = stack.workers
    for shown in (str(answer.data), str(json.loads(out)["data"])):
        assert "tests/faults/app.py" in shown
        assert "in block_until" in shown
        assert "gates.wait_at_lock(lock)" in shown
    assert code == 0, err
    await world.reaches(task_id, TaskState.SUCCEEDED)
    account = world.ledger.read()
    account.check()
    assert [worker.id] == [line.worker for line in account.starts(task_id)]
    assert (await world.stem.status(task_id)).token == 1


async def test_a_worker_that_stays_wedged_ends_with_70_and_its_tasks_run_elsewhere(
    worlds: Worlds, valkey_url: str
) -> None:
    world = worlds(valkey_url, STEM_WEDGED_TIMEOUT="2s")
    stuck = await world.worker("stuck", queues=("default", "bad"))
    naps = await world.enqueue_some(3, "nap_first", seconds=60.0, lease=30)
    await world.started(*naps)
    blocker = await world.enqueue("block_forever", queue="bad", lease=30)
    await world.started(blocker)
    other = await world.worker("other")

    code = await stuck.exit_code()
    status = await world.stem.status(blocker)
    done = await world.all_final(naps, timeout=8)  # long before a lease of 30 s runs out

    assert code == 70
    assert "in block_forever" in stuck.log()
    assert (status.state, status.attempt, status.crashes) == (TaskState.QUEUED, 0, 1)
    assert {(TaskState.SUCCEEDED, other.id, 0)} == {(one.state, one.worker, one.attempt) for one in done}
    account = world.ledger.read()
    assert account.done_twice() | account.finished_twice() | account.bad_tokens() == {}
    assert {line.pid for line in account.lines if line.kind == "done"} == {other.pid}


@pytest.mark.parametrize("new_owner", ["done", "works"])
async def test_the_late_result_of_a_handler_that_held_the_gil_beyond_its_lease_is_refused(
    world: World, new_owner: str
) -> None:
    lock, gate = world.fleet.folder / "lock", world.fleet.folder / "gate"
    first = await world.worker("first")
    task_id = await world.enqueue("hold_gil_until", lock=make_lock(lock), gate=str(gate), lease=2.0)
    await world.started(task_id)
    second = await world.worker("second")
    await world.ledger.wait_for("start", task_id, count=2)

    if new_owner == "done":
        open_gate(gate)
        await world.ledger.wait_for("done", task_id)
        open_lock(lock)
    else:
        open_lock(lock)
        await world.ledger.wait_for("done", task_id)
        open_gate(gate)
    await world.ledger.wait_for("done", task_id, count=2)
    status = await world.reaches(task_id, TaskState.SUCCEEDED)
    await world.ledger.wait_for("final:succeeded", task_id)
    after = await world.enqueue_some(20, "quick")
    await world.all_final(after)

    async def first_answers() -> bool:
        return (await world.controller.ping(["first"])).replied == 1

    await eventually(first_answers, what="the worker that was stuck answers")
    assert (status.result["worker"], status.result["token"]) == (second.id, 2)
    assert await world.stem.status(task_id) == status
    account = world.ledger.read()
    assert [line.pid for line in account.of(task_id, "final:succeeded")] == [second.pid]
    assert [line.worker for line in account.starts(task_id)] == [first.id, second.id]
    order = [line.pid for line in account.of(task_id, "done")]
    assert order == ([first.pid, second.pid] if new_owner == "works" else [second.pid, first.pid])
    assert "late_result_refused" in first.log() or "lease_lost" in first.log()
    account.check(started_once=False)
