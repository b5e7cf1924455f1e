"""Several workers under one supervisor: kill -9 of each of them, and of it, loses nothing and leaves nobody behind."""

from __future__ import annotations

import asyncio
import os
import signal

from stem.contracts import Seen
from tests.faults.fleet import World
from tests.faults.ledger import PARENT_VARIABLE
from tests.waiting import eventually

GROUP = {PARENT_VARIABLE: ""}


async def members(world: World, count: int = 4, *, without: frozenset[int] = frozenset()) -> dict[str, Seen]:
    """Wait until so many workers of the group run, none of them an old process; return them by name."""

    async def there() -> dict[str, Seen] | None:
        found = {
            seen.heartbeat.name: seen
            for seen in await world.broker.presence.workers()
            if seen.heartbeat.state == "running" and seen.heartbeat.pid not in without and not seen.lost
        }
        return found if len(found) == count else None

    found = await eventually(there, 30, what=f"{count} workers of the group run")
    assert found is not None
    return found


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


async def test_kill_9_of_each_worker_and_of_the_supervisor_loses_nothing(world: World) -> None:
    parent = world.fleet.spawn("group", env=GROUP, options=["--processes", "4"])
    first = await members(world)
    assert sorted(first) == ["group-1", "group-2", "group-3", "group-4"]
    tasks: list[str] = []
    stop = asyncio.Event()

    async def load() -> None:
        while not stop.is_set():
            tasks.extend(await world.enqueue_some(3, "nap", seconds=0.2))
            await asyncio.sleep(0.1)

    loading = asyncio.create_task(load())
    killed: set[int] = set()
    for name in sorted(first):
        victim = (await members(world, without=frozenset(killed)))[name].heartbeat.pid
        os.kill(victim, signal.SIGKILL)
        killed.add(victim)
        again = await members(world, without=frozenset(killed))
        assert again[name].heartbeat.pid != victim
    last = [seen.heartbeat.pid for seen in (await members(world, without=frozenset(killed))).values()]

    parent.kill9()
    await eventually(lambda: all(gone(pid) for pid in last), 15, what="the workers went with their supervisor")
    stop.set()
    await loading
    await world.worker("heir")
    await world.all_final(tasks, timeout=30)

    world.ledger.read().check(started_once=False)
    assert len(tasks) > 20
    assert parent.tracebacks() == []


async def test_sigterm_stops_all_and_a_shutdown_of_all_ends_the_supervisor_too(world: World) -> None:
    parent = world.fleet.spawn("group", env=GROUP, options=["--processes", "2"])
    await members(world, 2)
    tasks = await world.enqueue_some(4, "nap", seconds=0.5)
    await world.started(*tasks)
    parent.send(signal.SIGTERM)
    assert await parent.exit_code() == 0
    assert len(await world.all_final(tasks)) == 4

    parent = world.fleet.spawn("again", env=GROUP, options=["--processes", "2"])
    await members(world, 2)
    assert (await world.controller.shutdown(["again-*"], wait_s=10)).applied == 2
    assert await parent.exit_code() == 0
    assert '"supervisor.process_died"' not in parent.log()
