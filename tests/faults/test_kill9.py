"""A worker killed with SIGKILL costs time, never a task; a task that kills its workers is buried."""

from __future__ import annotations

import pytest

from stem.messages.status import TaskState
from tests.conftest import OwnServer
from tests.faults.conftest import Worlds
from tests.faults.fleet import LEASE_S, World, now_ns
from tests.waiting import eventually

GRACE_S = 5.0
"""Beyond the lease: until the tasks of a killed worker run elsewhere."""


@pytest.mark.parametrize("usual_lease", ["1500ms", "30s"])
async def test_the_tasks_of_a_killed_worker_run_elsewhere_within_lease_and_five_seconds(
    worlds: Worlds, valkey_url: str, usual_lease: str
) -> None:
    world = worlds(valkey_url, STEM_VISIBILITY_TIMEOUT=usual_lease)
    heir = await world.worker("heir")
    await world.controller.drain(["heir"], wait_s=5)
    victim = await world.worker("victim")
    tasks = [
        *await world.enqueue_some(4, "nap_first", seconds=60.0, lease=LEASE_S),
        *await world.enqueue_some(2, "thread_nap_first", seconds=60.0, lease=LEASE_S),
    ]
    await world.started(*tasks)
    await world.controller.undrain(["heir"], wait_s=5)
    assert victim.running
    assert set() == world.ledger.read().ids("done")

    killed_ns = now_ns()
    victim.kill9()
    statuses = await world.all_final(tasks)

    account = world.ledger.read()
    account.check(started_once=False)
    for status in statuses:
        first, second = account.starts(status.id)
        assert (victim.pid, heir.pid) == (first.pid, second.pid)
        assert (second.at_ns - killed_ns) / 1e9 < LEASE_S + GRACE_S
        assert len(account.of(status.id, "done")) == 1
        assert (TaskState.SUCCEEDED, 0, 1, 2, heir.id) == (
            status.state,
            status.attempt,
            status.crashes,
            status.token,
            status.worker,
        )


@pytest.mark.parametrize("kind", ["valkey", pytest.param("redis", marks=pytest.mark.debian_redis)])
async def test_under_load_a_kill_loses_nothing_and_completes_nothing_twice(
    own_server: OwnServer, worlds: Worlds, kind: str
) -> None:
    world = worlds(own_server(kind=kind, aof=False).url)
    workers = await world.workers("w1", "w2", "w3", concurrency=6)
    tasks: list[str] = []
    for round_ in range(12):
        tasks += await world.enqueue_some(20, "nap", seconds=0.03)
        tasks += await world.enqueue_some(5, "flaky", failures=1)
        tasks += await world.enqueue_some(5, "thread_nap", seconds=0.03)
        if round_ == 4:
            workers[0].kill9()
        if round_ == 8:
            workers[1].kill9()
    statuses = await world.all_final(tasks, timeout=20)

    assert {TaskState.SUCCEEDED} == {status.state for status in statuses}
    account = world.ledger.read()
    account.check(started_once=False)
    dead = {workers[0].pid, workers[1].pid}
    extra = {
        task_id for task_id in account.started_twice() if not dead & {line.pid for line in account.starts(task_id)}
    }
    assert set() == extra  # only who died may have begun what another one began again
    await world.nothing_in_flight()


async def test_a_task_that_kills_three_workers_is_buried_as_poison(worlds: Worlds, valkey_url: str) -> None:
    world = worlds(valkey_url, beat_s=0.2)
    task_id = await world.enqueue("die", lease=0.4)

    for n in range(3):
        worker = world.fleet.spawn(f"victim-{n}")
        assert await worker.exit_code(15.0) == -9
    await world.worker("survivor")
    status = await world.reaches(task_id, TaskState.FAILED)

    assert (status.reason, status.crashes, status.attempt) == ("poison", 3, 0)
    assert len(world.ledger.read().starts(task_id)) == 3
    page = await world.broker.census.tasks("dead", queue="default")
    assert [task_id] == [item.id for item in page.items]
    other = await world.enqueue("quick")
    await world.reaches(other, TaskState.SUCCEEDED)


@pytest.mark.parametrize("signalled", [True, False], ids=["frozen-and-killed", "killed"])
async def test_a_killed_worker_leaves_no_lease_and_is_named_lost(world: World, signalled: bool) -> None:
    victim = await world.worker("victim")
    task_id = await world.enqueue("nap", seconds=60.0, lease=3.0)
    await world.started(task_id)
    if signalled:
        victim.freeze()
    victim.kill9()
    await world.worker("heir", queues=("default", "other"))

    await world.ledger.wait_for("start", task_id, count=2)
    result = await world.controller.revoke([task_id], terminate=True, wait_s=10)

    assert [item.outcome for item in result.items] == ["cancelled"]
    await world.nothing_in_flight()

    async def named() -> bool:
        silent = (await world.controller.ping()).silent
        return [(one.name, one.diagnosis) for one in silent] == [("victim", "lost")]

    await eventually(named, what="the victim is named lost")
