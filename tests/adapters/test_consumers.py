"""Consumers of workers that are gone: forgotten once nobody has heard of their worker for an hour, and never before
what they own is somebody else's."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from stem.adapters.redis import RedisStreamsBroker
from stem.contracts import Beat, FetchRequest, NewTask, Outcome, Settlement
from stem.messages.envelope import new_task_id
from stem.messages.heartbeat import Heartbeat
from tests.servers import Server

HOUR_MS = 3_600_000


@pytest.fixture
async def broker(valkey_url: str, namespace: str) -> AsyncIterator[RedisStreamsBroker]:
    broker = RedisStreamsBroker(valkey_url, namespace=namespace)
    yield broker
    await broker.close()


def heartbeat(worker: str) -> Heartbeat:
    return Heartbeat(id=worker, name=worker, started_at_ms=0, host="h", pid=1, version="0", queues=("default",))


async def beats(broker: RedisStreamsBroker, worker: str) -> None:
    await broker.presence.beat(Beat(heartbeat=heartbeat(worker)))


async def works(broker: RedisStreamsBroker, worker: str, *, priority: int, finishes: bool = True) -> str:
    """Let a worker beat, take one task, and end it."""
    await beats(broker, worker)
    task_id = new_task_id()
    await broker.enqueue([NewTask(id=task_id, task="t", queue="default", body=b"b", priority=priority)])
    taken = await broker.exchange(worker, [], FetchRequest(queues=["default"], count=1, lease_ms=60_000))
    assert [delivery.id for delivery in taken.deliveries] == [task_id]
    if finishes:
        end = Settlement(id=task_id, token=1, outcome=Outcome.SUCCEEDED)
        await broker.exchange(worker, [end], None)
    return task_id


def consumers(server: Server, namespace: str, priority: int) -> set[str]:
    rows = server.command("XINFO", "CONSUMERS", f"{{{namespace}}}:q:default:p{priority}", "stem")
    return {row["name"] for row in rows}


def an_hour_passes(server: Server, namespace: str, *dead: str) -> None:
    for worker in dead:
        server.command("ZINCRBY", f"{{{namespace}}}:workers", -HOUR_MS - 1, worker)
    server.command("HDEL", f"{{{namespace}}}:q:default:meta", "sw", "rp")


async def test_consumers_of_workers_dead_for_an_hour_are_forgotten(
    broker: RedisStreamsBroker, valkey_server: Server, namespace: str
) -> None:
    for worker in ("dead", "lost", "alive"):
        await works(broker, worker, priority=0)
    await works(broker, "dead", priority=3)
    an_hour_passes(valkey_server, namespace, "dead")
    await beats(broker, "alive")

    await broker.sweep(["default"])

    assert consumers(valkey_server, namespace, 0) == {"lost", "alive"}
    assert consumers(valkey_server, namespace, 3) == set()


async def test_a_consumer_that_owns_something_stays_until_it_is_taken_from_it(
    broker: RedisStreamsBroker, valkey_server: Server, namespace: str
) -> None:
    task_id = await works(broker, "dead", priority=0, finishes=False)
    an_hour_passes(valkey_server, namespace, "dead")
    await beats(broker, "alive")

    await broker.sweep(["default"])
    assert consumers(valkey_server, namespace, 0) == {"dead"}

    valkey_server.command("ZADD", f"{{{namespace}}}:q:default:lease", 1, task_id)
    an_hour_passes(valkey_server, namespace)
    await broker.sweep(["default"])
    taken = await broker.exchange("alive", [], FetchRequest(queues=["default"], count=1, lease_ms=60_000))

    assert [delivery.id for delivery in taken.deliveries] == [task_id]
    assert consumers(valkey_server, namespace, 0) == {"alive"}


async def test_consumers_are_looked_at_once_a_minute(
    broker: RedisStreamsBroker, valkey_server: Server, namespace: str
) -> None:
    """Sweeps come every second, and a long list of consumers is nothing to read each time."""
    await works(broker, "dead", priority=0)
    await beats(broker, "alive")
    await broker.sweep(["default"])
    key = f"{{{namespace}}}:q:default:meta"
    looked = valkey_server.command("HGET", key, "rp")
    an_hour_passes(valkey_server, namespace, "dead")
    valkey_server.command("HSET", key, "rp", looked)
    await beats(broker, "alive")

    await broker.sweep(["default"])
    assert consumers(valkey_server, namespace, 0) == {"dead"}

    valkey_server.command("HINCRBY", key, "rp", -60_000)
    valkey_server.command("HDEL", key, "sw")
    await broker.sweep(["default"])
    assert consumers(valkey_server, namespace, 0) == set()
