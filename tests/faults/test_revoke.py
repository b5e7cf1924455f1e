"""A revoked task never starts (again), wherever it was when the revoke came; and the command says how each ended."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import pytest

from stem.control.answer import CommandResult
from stem.messages.envelope import new_task_id
from stem.messages.status import TaskState
from tests.faults.fleet import World
from tests.faults.gates import make_lock, open_gate, open_lock
from tests.waiting import eventually

LATER_S = 3.0
"""Until something would be due that is revoked first; what is enqueued after the revoke with this delay is later."""


async def _others_run(world: World, *, delay: float | None = None) -> None:
    """Prove that work enqueued now runs, and with it all that stood before it."""
    marker = await world.enqueue("quick", delay=delay)
    await world.reaches(marker, TaskState.SUCCEEDED)


async def _while_revoked(world: World, task_id: str, then: Callable[[], None], *, terminate: bool) -> CommandResult:
    """Revoke a running task; do something once that is stored, and return how it ended."""
    before = (await world.broker.control.read(0)).epoch

    async def stored() -> bool:
        return (await world.broker.control.read(0)).epoch > before

    revoking = asyncio.create_task(world.controller.revoke([task_id], terminate=terminate, wait_s=20))
    await eventually(stored, what="the revoke is stored")
    then()
    return await revoking


async def test_a_waiting_task_never_starts(world: World) -> None:
    await world.worker(concurrency=1)
    gate = world.fleet.folder / "gate"
    running = await world.enqueue("nap_until", gate=str(gate), lease=30)
    await world.started(running)
    task_id = await world.enqueue("quick")

    result = await world.controller.revoke([task_id], wait_s=5)
    open_gate(gate)

    (item,) = result.items
    assert (task_id, "revoked", "effect", True) == (item.target, item.outcome, item.stage, item.changed)
    assert await world.state(task_id) is TaskState.REVOKED
    await _others_run(world)
    assert world.ledger.read().starts(task_id) == []


async def test_a_delayed_task_never_starts(world: World) -> None:
    await world.worker()
    task_id = await world.enqueue("quick", delay=LATER_S)

    result = await world.controller.revoke([task_id])

    assert [item.outcome for item in result.items] == ["revoked"]
    await _others_run(world, delay=LATER_S)
    assert await world.state(task_id) is TaskState.REVOKED
    assert world.ledger.read().starts(task_id) == []


async def test_a_retrying_task_never_starts_again(world: World) -> None:
    await world.worker()
    task_id = await world.enqueue("again", countdown=LATER_S)
    await world.reaches(task_id, TaskState.RETRYING)

    result = await world.controller.revoke([task_id])

    assert [item.outcome for item in result.items] == ["revoked"]
    await _others_run(world, delay=LATER_S)
    assert await world.state(task_id) is TaskState.REVOKED
    assert len(world.ledger.read().starts(task_id)) == 1


@pytest.mark.parametrize(
    ("handler", "how"),
    [
        pytest.param("nap", {"cancelled"}, id="async"),
        pytest.param("thread_nap", {"soft"}, id="thread"),
        pytest.param("polite_thread", {"finished"}, id="thread-that-looks"),
    ],
)
async def test_a_running_task_is_ended_and_the_command_says_how(world: World, handler: str, how: set[str]) -> None:
    worker = await world.worker()
    task_id = await world.enqueue(handler, seconds=60.0, lease=30)
    await world.started(task_id)

    result = await world.controller.revoke([task_id], terminate=True, wait_s=10)

    (item,) = result.items
    assert ("effect", worker.id) == (item.stage, item.worker)
    assert item.outcome in how
    assert not result.waited_out
    assert result.elapsed_ms < 5000
    assert (result.expected, result.applied) == (1, 1)
    status = await world.stem.status(task_id)
    assert status.state is TaskState.REVOKED
    assert status.attempt == 0
    await _others_run(world)
    account = world.ledger.read()
    assert len(account.starts(task_id)) == 1
    assert len(account.of(task_id, "done", "cut", "failed")) == 1
    account.check()


async def test_stemctl_revoke_waits_and_prints_how_each_ended(world: World) -> None:
    await world.worker()
    running = await world.enqueue("nap", seconds=60.0, lease=30)
    await world.started(running)
    waiting = await world.enqueue("quick", delay=60)

    code, out, err = await world.stemctl("revoke", running, waiting, "--terminate", "--wait", "10s", "--json")

    assert code == 0, err
    items = {item["target"]: (item["stage"], item["outcome"]) for item in json.loads(out)["data"]["items"]}
    assert {running: ("effect", "cancelled"), waiting: ("effect", "revoked")} == items
    assert await world.state(running) is TaskState.REVOKED
    assert await world.state(waiting) is TaskState.REVOKED


async def test_a_thread_that_nothing_ends_is_reported_and_does_not_start_again(world: World) -> None:
    await world.worker()
    task_id = await world.enqueue("deaf_thread", seconds=3.0, lease=30)
    await world.started(task_id)

    result = await world.controller.revoke([task_id], terminate=True, wait_s=10)

    (item,) = result.items
    assert item.stage == "effect"
    await world.reaches(task_id, TaskState.REVOKED)
    await _others_run(world)
    assert len(world.ledger.read().starts(task_id)) == 1


async def test_a_running_task_that_fails_after_a_polite_revoke_is_not_retried(world: World) -> None:
    await world.worker()
    gate = world.fleet.folder / "gate"
    task_id = await world.enqueue("fail_at", gate=str(gate), lease=30)
    await world.started(task_id)

    result = await _while_revoked(world, task_id, lambda: open_gate(gate), terminate=False)

    assert [item.stage for item in result.items] == ["effect"]
    status = await world.reaches(task_id, TaskState.REVOKED)
    assert status.attempt == 0
    await _others_run(world, delay=0.3)
    assert len(world.ledger.read().starts(task_id)) == 1


async def test_a_polite_revoke_waits_for_the_end_of_a_task_that_looks(world: World) -> None:
    await world.worker()
    task_id = await world.enqueue("polite_thread", seconds=60.0, lease=30)
    await world.started(task_id)

    result = await world.controller.revoke([task_id], wait_s=10)

    (item,) = result.items
    assert (item.stage, item.outcome) == ("effect", "finished")
    assert result.elapsed_ms < 5000
    assert (await world.state(task_id)).final


async def test_with_no_worker_online_it_never_starts(world: World) -> None:
    task_id = await world.enqueue("quick")

    result = await world.controller.revoke([task_id], wait_s=5)

    assert [item.outcome for item in result.items] == ["revoked"]
    assert (result.expected, len(result.silent)) == (0, 0)
    assert result.elapsed_ms < 2000
    await world.worker()
    await _others_run(world)
    assert await world.state(task_id) is TaskState.REVOKED
    assert world.ledger.read().starts(task_id) == []


async def test_revoked_before_it_is_enqueued_it_never_starts(world: World) -> None:
    await world.worker()
    task_id = new_task_id()

    result = await world.controller.revoke([task_id])
    assert task_id == await world.enqueue("quick", task_id=task_id)

    assert [item.outcome for item in result.items] == ["stored"]
    assert result.warnings
    assert await world.state(task_id) is TaskState.REVOKED
    await _others_run(world)
    assert world.ledger.read().starts(task_id) == []


async def test_revoked_on_a_worker_that_dies_it_does_not_run_elsewhere(world: World) -> None:
    dying = await world.worker("dying")
    task_id = await world.enqueue("nap", seconds=20.0, lease=1.0)
    await world.started(task_id)
    dying.kill9()

    result = await world.controller.revoke([task_id])
    await world.worker("other")

    assert [item.outcome for item in result.items] == ["running"]
    await world.reaches(task_id, TaskState.REVOKED)
    await _others_run(world)
    assert len(world.ledger.read().starts(task_id)) == 1


async def test_revoked_on_a_frozen_worker_it_ends_when_that_one_thaws(world: World) -> None:
    frozen = await world.worker("frozen")
    task_id = await world.enqueue("nap", seconds=20.0, lease=30)
    await world.started(task_id)
    frozen.freeze()
    world.controller._timeout_s = 0.5  # it will not answer

    result = await world.controller.revoke([task_id], terminate=True)
    frozen.thaw()

    assert [silent.name for silent in result.silent] == ["frozen"]
    await world.reaches(task_id, TaskState.REVOKED)

    async def cut() -> bool:
        return bool(world.ledger.read().of(task_id, "cut"))

    await eventually(cut, what="the handler was cancelled")
    assert len(world.ledger.read().starts(task_id)) == 1


async def test_a_revoke_of_a_task_behind_a_blocked_work_loop_is_carried_out_once_it_is_free(world: World) -> None:
    await world.worker()
    lock = world.fleet.folder / "lock"
    nap = await world.enqueue("nap", seconds=60.0, lease=30)
    await world.started(nap)
    blocker = await world.enqueue("block_until", lock=make_lock(lock), lease=30)
    await world.started(blocker)

    result = await _while_revoked(world, nap, lambda: open_lock(lock), terminate=True)

    assert [(item.stage, item.outcome) for item in result.items] == [("effect", "cancelled")]
    assert await world.state(nap) is TaskState.REVOKED
    await world.reaches(blocker, TaskState.SUCCEEDED)
    world.ledger.read().check()
