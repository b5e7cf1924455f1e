"""The server is killed three times under load: workers and dashboard come back by themselves, nothing acknowledged is
lost."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from stem.control.diagnose import diagnose
from stem.errors import BrokerError
from stem.messages.envelope import new_task_id
from stem.messages.status import TaskState
from stem.observe.feed import Feed
from stem.observe.state import ClusterState
from tests.conftest import OwnServer
from tests.faults.conftest import Worlds
from tests.faults.fleet import World, now_ns
from tests.servers import Server
from tests.waiting import eventually

BACK_S = 5.0
"""After the server is back, until work goes on."""
SERVERS = [
    pytest.param("valkey", "everysec", id="valkey-everysec"),
    pytest.param("valkey", "always", id="valkey-always"),
    pytest.param("redis", "everysec", id="redis-everysec", marks=pytest.mark.debian_redis),
]


@contextlib.asynccontextmanager
async def _load(world: World) -> AsyncIterator[dict[str, int]]:
    """Enqueue a mixture until the block ends; the ledger holds what was acknowledged, `failed` counts what was not."""
    counts = {"acked": 0, "failed": 0}
    stop = asyncio.Event()

    async def produce(lane: int) -> None:
        n = 0
        while not stop.is_set():
            n += 1
            name = ("quick", "nap", "flaky", "thread_nap")[(n + lane) % 4]
            args = {"flaky": {"failures": 1}, "quick": {"n": n}}.get(name, {"seconds": 0.02})
            # An own id: an enqueue of unknown outcome is repeated by us too, as a careful producer does.
            task_id = new_task_id()
            while True:
                try:
                    await world.enqueue(name, task_id=task_id, **args)
                    counts["acked"] += 1
                    break
                except BrokerError:
                    counts["failed"] += 1
                    if stop.is_set():
                        break
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), 0.02)

    producers = [asyncio.create_task(produce(lane)) for lane in range(6)]
    try:
        yield counts
    finally:
        stop.set()
        await asyncio.gather(*producers)


async def _more_done(world: World, count: int, *, timeout: float) -> None:
    goal = len(world.ledger.read().ids("done")) + count
    await eventually(lambda: len(world.ledger.read().ids("done")) >= goal, timeout, what=f"{count} more tasks are done")


async def _work_goes_on(world: World, since_ns: int) -> None:
    def started() -> bool:
        return bool(world.ledger.read().between(since_ns, now_ns()))

    await eventually(started, BACK_S, what="a task started after the server came back")


@pytest.mark.slow
@pytest.mark.timeout(60)
@pytest.mark.parametrize(("kind", "fsync"), SERVERS)
async def test_three_kills_of_the_server_lose_nothing_acknowledged(
    own_server: OwnServer, worlds: Worlds, kind: str, fsync: str
) -> None:
    server: Server = own_server(kind=kind, options=("--appendfsync", fsync))
    world = worlds(server.url)
    workers = await world.workers("w1", "w2")

    async with _load(world) as counts:
        for _ in range(3):
            await _more_done(world, 60, timeout=20)
            server.kill9()
            await _gone_for_a_moment(world)
            server.start()
            await _work_goes_on(world, now_ns())
        await _more_done(world, 60, timeout=20)
    acked = sorted(world.ledger.read().ids("acked"))
    statuses = await world.all_final(acked, timeout=15)

    assert all(worker.running for worker in workers)
    assert counts["acked"] == len(acked) > 200
    assert {TaskState.SUCCEEDED} == {status.state for status in statuses}
    await world.nothing_in_flight()
    account = world.ledger.read()
    assert set() == account.lost()
    assert account.finished_twice() | account.bad_tokens() == {}

    async def both_answer() -> bool:
        return (await world.controller.ping()).replied == 2

    await eventually(both_answer, BACK_S, what="both workers answer")
    for worker in workers:
        assert worker.tracebacks() == []


async def _gone_for_a_moment(world: World) -> None:
    """Wait until the worker's next heartbeats must have failed."""
    before = now_ns()
    await eventually(lambda: now_ns() - before > 600_000_000, what="the outage has lasted 0.6 s")


async def test_the_picture_of_the_fleet_recovers_by_itself(own_server: OwnServer, worlds: Worlds) -> None:
    server = own_server()
    world = worlds(server.url)
    await world.worker()
    feed = Feed(world.broker, ClusterState(diagnose), watcher="tests", interval_s=0.2)
    running = asyncio.create_task(feed.run())
    try:
        await eventually(lambda: feed.connection.up, what="the feed is live")
        server.kill9()
        await eventually(lambda: not feed.connection.up, what="the feed has noticed")
        server.start()
        await eventually(lambda: feed.connection.up, BACK_S, what="the feed is live again")
        task_id = await world.enqueue("quick")
        await world.reaches(task_id, TaskState.SUCCEEDED)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_an_outage_longer_than_the_lease_starts_nothing_twice_that_still_runs(
    own_server: OwnServer, worlds: Worlds
) -> None:
    server = own_server()
    world = worlds(server.url)
    await world.workers("w1", "w2")
    task_id = await world.enqueue("late", seconds=3.5, end="return", lease=1.0)
    await world.started(task_id)

    server.kill9()
    before = now_ns()
    await eventually(lambda: now_ns() - before > 1_500_000_000, what="the lease has run out during the outage")
    server.start()
    status = await world.reaches(task_id, TaskState.SUCCEEDED, timeout=20)

    # It may run again, because nobody could renew; but one end is recorded, by whoever holds the last token.
    account = world.ledger.read()
    account.check(started_once=False)
    assert status.result["token"] == status.token


async def test_a_frozen_server_costs_time_and_nothing_else(own_server: OwnServer, worlds: Worlds) -> None:
    server = own_server()
    world = worlds(server.url)
    await world.workers("w1", "w2")
    tasks = await world.enqueue_some(40, "nap", seconds=0.1, lease=30)
    await world.started(tasks[0])

    server.sigstop()
    before = now_ns()
    await eventually(lambda: now_ns() - before > 1_000_000_000, what="the server was frozen for a second")
    server.sigcont()
    statuses = await world.all_final(tasks)

    assert {(TaskState.SUCCEEDED, 0)} == {(status.state, status.attempt) for status in statuses}
    world.ledger.read().check()
