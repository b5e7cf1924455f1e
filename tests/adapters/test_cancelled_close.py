"""At whatever moment a wait is cancelled or a broker is closed, and however often: its connections end with it."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from stem.adapters.redis import RedisStreamsBroker
from stem.errors import BrokerUnreachableError, UnknownOutcomeError
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


async def test_a_broker_closed_while_a_call_connects_leaves_no_connection(
    valkey_server: Server, namespace: str
) -> None:
    ends = set()
    for turns in range(40):
        broker = RedisStreamsBroker(valkey_server.url, namespace=namespace)
        calls = [asyncio.create_task(broker.statuses([str(number)])) for number in range(3)]
        for _ in range(turns):
            await asyncio.sleep(0)
        await broker.close()
        ends |= {type(end) for end in await asyncio.gather(*calls, return_exceptions=True)}

        try:
            await eventually(lambda: connections(valkey_server, namespace) == [], 2.0)
        except AssertionError:
            pytest.fail(f"closed after {turns} turns, {connections(valkey_server, namespace)} is left open")
    assert ends <= {list, BrokerUnreachableError, UnknownOutcomeError}, ends


async def test_a_closed_broker_says_so(valkey_server: Server, namespace: str) -> None:
    broker = RedisStreamsBroker(valkey_server.url, namespace=namespace)
    await broker.statuses(["any"])
    await broker.close()

    with pytest.raises(BrokerUnreachableError, match="was closed before"):
        await broker.statuses(["any"])
