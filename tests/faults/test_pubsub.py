"""Commands travel by pub/sub, and do not depend on it."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from stem.adapters.redis.client import script
from stem.control.controller import Controller
from stem.messages.status import TaskState
from tests.conftest import OwnServer
from tests.faults.chaos import ChaosProxy
from tests.faults.conftest import Worlds
from tests.faults.fleet import World
from tests.faults.rules import Fault
from tests.servers import Server
from tests.waiting import eventually

BEAT_S = 1.0
SLACK_S = 3.0
"""For a loaded machine."""


def _subscribers(server: Server) -> int:
    channels = [name for name in server.command("PUBSUB", "CHANNELS", "*") if name.endswith(":control")]
    return sum(int(server.command("PUBSUB", "NUMSUB", name)[1]) for name in channels)


def _calls(server: Server, command: str) -> int:
    found = server.command("INFO", "commandstats").get(f"cmdstat_{command}")
    return 0 if found is None else int(found["calls"])


def _publishes(server: Server) -> int:
    return _calls(server, "publish")


def _scripts(server: Server) -> int:
    return _calls(server, "evalsha")


@pytest.mark.parametrize("kind", ["valkey", pytest.param("redis", marks=pytest.mark.debian_redis)])
async def test_one_subscription_per_worker_and_one_publish_per_command(
    own_server: OwnServer, worlds: Worlds, kind: str
) -> None:
    server = own_server(kind=kind, aof=False)
    world = worlds(server.url)
    await world.workers("w1", "w2", "w3")

    subscriptions = _subscribers(server)
    published = []
    for command in (
        world.controller.ping,
        lambda: world.controller.inspect("active"),
        lambda: world.controller.pause("queue", ["default"], wait_s=5),
        lambda: world.controller.resume("queue", ["default"], wait_s=5),
        lambda: world.controller.revoke(["0198-unknown"]),
    ):
        before = _publishes(server)
        await command()
        published.append(_publishes(server) - before)

    assert subscriptions == 3
    assert published == [1, 1, 1, 1, 1]
    assert _subscribers(server) == 3


@asynccontextmanager
async def _monitored(server: Server) -> AsyncIterator[list[str]]:
    """Note what the server is asked; the list is whole once the block is left."""
    seen: list[str] = []
    with server.client() as client, client.monitor() as monitor:

        def listen() -> None:
            for entry in monitor.listen():
                seen.append(entry["command"])
                if entry["command"].startswith("ECHO the end"):
                    return

        listening = asyncio.create_task(asyncio.to_thread(listen))
        yield seen
        server.command("ECHO", "the end")
        await asyncio.wait_for(listening, 10)


async def test_the_monitor_shows_one_subscription_and_one_wake_up_a_command(
    own_server: OwnServer, worlds: Worlds
) -> None:
    server = own_server(aof=False)
    world = worlds(server.url)
    async with _monitored(server) as seen:
        await world.worker()
        await world.controller.ping()

    subscribed = [line for line in seen if re.match(r"P?SUBSCRIBE ", line, re.IGNORECASE)]
    published = [line for line in seen if re.match(r"PUBLISH .*:control", line, re.IGNORECASE)]
    assert len(subscribed) == 1
    assert len(published) == 1


async def test_a_question_makes_no_worker_fetch(own_server: OwnServer, worlds: Worlds) -> None:
    server = own_server(aof=False)
    world = worlds(server.url, beat_s=8.0)
    await world.worker()
    async with _monitored(server) as seen:
        for _ in range(30):
            assert (await world.controller.ping()).replied == 1

    fetches = [line for line in seen if script("exchange").sha in line]
    assert len(fetches) < 10  # one each two seconds, as an idle worker looks by itself


async def test_without_pubsub_messages_commands_arrive_within_one_heartbeat(
    own_server: OwnServer, worlds: Worlds
) -> None:
    server = own_server(aof=False)
    async with ChaosProxy(server.url, server.folder / "p") as proxy:
        proxy.on(Fault(no_messages=True))
        world = worlds(server.url, beat_s=BEAT_S, STEM_BROKER_URL=proxy.url)
        worker = await world.worker()
        nap = await world.enqueue("nap", seconds=20.0, lease=30)
        await world.started(nap)

        pings = [await world.controller.ping() for _ in range(3)]
        begun = time.monotonic()
        paused = await world.controller.pause("queue", ["default"], wait_s=5)
        paused_s = time.monotonic() - begun
        begun = time.monotonic()
        revoked = await world.controller.revoke([nap], terminate=True, wait_s=10)
        revoked_s = time.monotonic() - begun
        stopped = await world.controller.shutdown(["w1"], wait_s=10)
        assert await worker.exit_code() == 0

    assert proxy.messages >= 6
    assert [ping.replied for ping in pings] == [1, 1, 1]
    # The best of three tells what Stem does, the worst what else runs on this machine.
    assert min(ping.elapsed_ms for ping in pings) < 1000 * (BEAT_S + 1.0)
    assert max(ping.elapsed_ms for ping in pings) < 1000 * (BEAT_S + SLACK_S)
    assert paused.applied == 1
    assert paused_s < BEAT_S + SLACK_S
    assert [item.outcome for item in revoked.items] == ["cancelled"]
    assert revoked_s < BEAT_S + 0.5 + SLACK_S  # half a second of grace for handlers that look themselves
    assert await world.state(nap) is TaskState.REVOKED
    assert stopped.applied == 1


async def _stored(world: World, epoch: int) -> bool:
    return (await world.broker.control.read(0)).epoch > epoch


@pytest.mark.parametrize("what", ["queue", "task", "worker", "drain"])
async def test_a_pause_that_pubsub_lost_holds_from_the_moment_it_is_stored(
    own_server: OwnServer, worlds: Worlds, what: str
) -> None:
    server = own_server(aof=False)
    async with ChaosProxy(server.url, server.folder / "p") as proxy:
        proxy.on(Fault(no_messages=True))
        # A heartbeat so rare that nothing but the fence can keep the task back.
        world = worlds(server.url, beat_s=8.0, STEM_BROKER_URL=proxy.url)
        await world.worker("w1")
        patient = Controller(world.broker, timeout_s=20.0)
        orders = {
            "queue": lambda: patient.pause("queue", ["default"]),
            "task": lambda: patient.pause("task", ["fault.quick"]),
            "worker": lambda: patient.pause("worker", ["w1"]),
            "drain": lambda: patient.drain(["w1"]),
        }
        before = (await world.broker.control.read(0)).epoch
        given = asyncio.create_task(orders[what]())
        await eventually(lambda: _stored(world, before), what="the order is stored")
        held = await world.enqueue("quick")
        # The bell of this task wakes the worker, and it tries to fetch: one of its next calls was that attempt.
        before = _scripts(server)
        await eventually(lambda: _scripts(server) >= before + 4, what="the worker has tried to fetch")
        result = await given  # whoever is fenced off reads the order, and confirms it

        assert proxy.messages >= 1
        assert [item.changed for item in result.items] == [True]
        assert (result.applied, list(result.silent)) == (1, [])
        assert world.ledger.read().starts(held) == []
        assert await world.state(held) is TaskState.QUEUED


async def test_killed_subscriptions_come_back_and_no_command_is_lost(own_server: OwnServer, worlds: Worlds) -> None:
    server = own_server(aof=False)
    world = worlds(server.url)
    await world.workers("w1", "w2")

    for _ in range(5):
        server.command("CLIENT", "KILL", "TYPE", "pubsub")
        result = await world.controller.ping()
        assert (result.expected, result.replied) == (2, 2)
        assert result.elapsed_ms < 1000 * (0.4 + SLACK_S)

    await eventually(lambda: _subscribers(server) == 2, what="both are subscribed again")
