"""At whatever moment a wait is cancelled or a broker is closed, and however often: its connections end with it."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from stem.adapters.redis import RedisStreamsBroker
from stem.client import Stem
from stem.errors import BrokerError, BrokerUnreachableError, TaskNotFoundError, UnknownOutcomeError
from stem.testing.case import enqueue
from tests.adapters.hands import connections
from tests.servers import Server
from tests.waiting import eventually


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


async def test_an_application_whose_closing_is_cancelled_leaves_no_connection(
    valkey_server: Server, namespace: str
) -> None:
    """Whether something is still to be sent, or the broker is being closed, or the result backend."""

    def left() -> list[str]:
        with valkey_server.client() as client:
            return [row["name"] for row in client.client_list() if row["name"].startswith(f"stem-{namespace}")]

    for turns in range(1, 16):
        app = Stem.connect(valkey_server.url, namespace=namespace, backend=valkey_server.url, patience=0.1)
        with pytest.raises(TaskNotFoundError):
            await app.status("expired")
        sending = asyncio.create_task(app.enqueue("t"))
        await asyncio.sleep(0)
        closing = asyncio.create_task(app.close())
        for _ in range(turns):
            await asyncio.sleep(0)
        closing.cancel()
        await asyncio.wait({closing, sending})

        try:
            await eventually(lambda: left() == [], 2.0)
        except AssertionError:
            pytest.fail(f"cancelled after {turns} turns, {left()} is left open")
        assert sending.exception() is None or isinstance(sending.exception(), BrokerError)


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


async def test_a_closed_broker_says_so_and_connects_no_more(valkey_server: Server, namespace: str) -> None:
    broker = RedisStreamsBroker(valkey_server.url, namespace=namespace)
    waits = asyncio.create_task(broker.wait(await enqueue(broker), 30))
    await eventually(lambda: "subscribe" in connections(valkey_server, namespace), what="the wait has begun")
    await broker.close()
    with pytest.raises((BrokerUnreachableError, UnknownOutcomeError)):
        await asyncio.wait_for(waits, 2)

    for call in (
        broker.statuses(["any"]),
        broker.wait("any", 1),
        broker.idle(["default"], 1),
        broker.control.subscribe(),
        broker.control.replies("any", timeout_s=0.1),
    ):
        with pytest.raises(BrokerUnreachableError, match="was closed before"):
            await call
    assert connections(valkey_server, namespace) == []


async def test_a_broker_whose_closing_is_cancelled_leaves_no_connection(valkey_server: Server, namespace: str) -> None:
    for turns in range(1, 15):
        broker = RedisStreamsBroker(valkey_server.url, namespace=namespace)
        await broker.statuses(["any"])
        await broker.control.subscribe()
        await broker.idle(["default"], 0.001)
        closing = asyncio.create_task(broker.close())
        for _ in range(turns):
            await asyncio.sleep(0)
        closing.cancel()
        await asyncio.wait({closing})

        try:
            await eventually(lambda: connections(valkey_server, namespace) == [], 2.0)
        except AssertionError:
            pytest.fail(f"cancelled after {turns} turns, {connections(valkey_server, namespace)} is left open")


@pytest.mark.parametrize("turns", [0, 1, 2, 3, None])
async def test_waits_at_the_same_time_do_not_disturb_each_other(
    valkey_server: Server, namespace: str, turns: int | None
) -> None:
    """Several workers of one process may share a handle: one of them is cancelled, once or twice, or runs out."""
    broker = RedisStreamsBroker(valkey_server.url, namespace=namespace)
    first = asyncio.create_task(broker.idle(["default"], 0.05 if turns is None else 30))
    others = [asyncio.create_task(broker.idle([queue], 30)) for queue in ("default", "more")]
    await eventually(lambda: connections(valkey_server, namespace).count("blpop") == 3, what="all wait")

    if turns is not None:
        first.cancel()
        for _ in range(turns):
            await asyncio.sleep(0)
        first.cancel()
    await asyncio.wait({first})

    assert connections(valkey_server, namespace).count("blpop") >= 2
    for queue in ("default", "more"):
        valkey_server.command("RPUSH", f"{{{namespace}}}:q:{queue}:bell", "1")
    assert await asyncio.gather(*others) == [None, None]
    await broker.close()
    await eventually(lambda: connections(valkey_server, namespace) == [], 2.0)
