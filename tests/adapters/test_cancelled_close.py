"""However often a wait is cancelled, and at whatever moment, its connection ends with it."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from stem.adapters.redis import RedisStreamsBroker
from tests.servers import Server
from tests.waiting import eventually


def connections(server: Server, namespace: str) -> list[str]:
    with server.client() as client:
        return [row["cmd"] for row in client.client_list() if row["name"] == f"stem-{namespace}"]


@pytest.mark.parametrize("rings", [False, True], ids=["cancelled", "cancelled-as-it-rings"])
async def test_an_idle_wait_that_is_cancelled_twice_leaves_no_connection(
    valkey_server: Server, namespace: str, rings: bool
) -> None:
    """As at the end of a worker: first the wait itself is cancelled, then what waits for it, a few turns later."""
    for before, turns in itertools.product(range(6) if rings else [0], range(9)):
        broker = RedisStreamsBroker(valkey_server.url, namespace=namespace)
        idle = asyncio.create_task(broker.idle(["default"], 2.0))
        await eventually(lambda: "blpop" in connections(valkey_server, namespace), what="the wait has begun")
        if rings:
            valkey_server.command("RPUSH", f"{{{namespace}}}:q:default:bell", "1")
        for _ in range(before):
            await asyncio.sleep(0)
        idle.cancel()
        for _ in range(turns):
            await asyncio.sleep(0)
        idle.cancel()
        await asyncio.wait({idle})
        await broker.close()

        try:
            await eventually(lambda: connections(valkey_server, namespace) == [], 2.0)
        except AssertionError:
            left = connections(valkey_server, namespace)
            pytest.fail(f"cancelled after {before} turns and again after {turns}: {left} is left open")


async def test_a_subscription_whose_closing_is_cancelled_leaves_no_connection(
    valkey_server: Server, namespace: str
) -> None:
    for turns in range(12):
        broker = RedisStreamsBroker(valkey_server.url, namespace=namespace)
        await broker.control.subscribe()
        closing = asyncio.create_task(broker.control.close())
        for _ in range(turns):
            await asyncio.sleep(0)
        closing.cancel()
        await asyncio.wait({closing})
        await broker.close()

        try:
            await eventually(lambda: connections(valkey_server, namespace) == [], 2.0)
        except AssertionError:
            pytest.fail(f"cancelled after {turns} turns, {connections(valkey_server, namespace)} is left open")
