"""Who lost the lease settles nothing, whatever it sends and however late; the result stored is the new owner's."""

from __future__ import annotations

import pytest

from stem.adapters.redis.backend import RedisResultBackend
from stem.messages.status import TaskState
from tests.faults.conftest import Worlds
from tests.faults.gates import open_gate
from tests.waiting import eventually

SECOND_DB = "?db=1"


@pytest.mark.parametrize("end", ["return", "raise", "retry"])
@pytest.mark.parametrize("separate", [False, True], ids=["records", "separate-backend"])
async def test_a_worker_frozen_past_its_lease_settles_nothing(
    worlds: Worlds, valkey_url: str, end: str, separate: bool
) -> None:
    env = {"STEM_RESULT_BACKEND_URL": valkey_url + SECOND_DB} if separate else {}
    world = worlds(valkey_url, **env)
    old = await world.worker("old")
    gates = [world.fleet.folder / "old", world.fleet.folder / "new"]
    task_id = await world.enqueue("late_until", gate_of=[str(gate) for gate in gates], end=end, lease=1.0)
    await world.started(task_id)
    old.freeze()
    new = await world.worker("new")
    open_gate(gates[1])

    status = await world.reaches(task_id, TaskState.SUCCEEDED)
    await world.ledger.wait_for("final:succeeded", task_id)
    old.thaw()
    open_gate(gates[0])
    await world.ledger.wait_for("done" if end == "return" else "failed", task_id, count=2 if end == "return" else 1)
    # What the old one sends now goes out before or with these, and it is taking work again.
    more = await world.enqueue_some(50, "quick")
    await world.all_final(more)

    async def old_answers() -> bool:
        return (await world.controller.ping(["old"])).replied == 1

    await eventually(old_answers, what="the thawed worker answers")
    later = await world.stem.status(task_id)
    assert (status.result["worker"], status.result["token"], status.attempt) == (new.id, 2, 0)
    assert (status.state, status.result, status.finished_at_ms) == (later.state, later.result, later.finished_at_ms)
    account = world.ledger.read()
    assert [(1, old.pid), (2, new.pid)] == [(line.token, line.pid) for line in account.starts(task_id)]
    assert [line.pid for line in account.of(task_id, "final:succeeded", "final:failed", "retry")] == [new.pid]
    account.check(started_once=False)
    if separate:
        backend = await RedisResultBackend.connect(valkey_url + SECOND_DB, namespace=world.namespace)

        async def copied() -> bool:
            copy = await backend.get(task_id)
            return copy is not None and (copy.result, copy.token) == (status.result, 2)

        try:
            await eventually(copied, what="the copy is the new owner's")
        finally:
            await backend.close()


async def test_a_worker_thawed_while_the_new_owner_still_works_cannot_end_the_task(
    worlds: Worlds, valkey_url: str
) -> None:
    world = worlds(valkey_url)
    old = await world.worker("old")
    gates = [world.fleet.folder / "old", world.fleet.folder / "new"]
    task_id = await world.enqueue("late_until", gate_of=[str(gate) for gate in gates], end="return", lease=2.0)
    await world.started(task_id)
    old.freeze()
    new = await world.worker("new")
    await world.ledger.wait_for("start", task_id, count=2)
    old.thaw()
    open_gate(gates[0])

    (early,) = await world.ledger.wait_for("done", task_id)
    await eventually(lambda: "late_result_refused" in old.log() or "lease_lost" in old.log(), what="the old one knows")
    assert (early.pid, await world.state(task_id)) == (old.pid, TaskState.RUNNING)
    open_gate(gates[1])
    status = await world.reaches(task_id, TaskState.SUCCEEDED)
    await world.ledger.wait_for("final:succeeded", task_id)

    assert (status.result["worker"], status.result["token"]) == (new.id, 2)
    account = world.ledger.read()
    assert [line.pid for line in account.of(task_id, "final:succeeded")] == [new.pid]
    account.check(started_once=False)
