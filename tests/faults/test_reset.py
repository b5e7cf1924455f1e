"""A connection that is broken off (RST) is a lost connection, whatever the event loop makes of it."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
import uvloop

from stem.adapters.redis import RedisStreamsBroker
from stem.adapters.redis.address import parse_address
from stem.adapters.redis.client import make_pool
from stem.adapters.redis.connections import ask
from stem.errors import BrokerError
from tests.faults.chaos import ChaosProxy
from tests.servers import Server
from tests.waiting import eventually

LOOPS = {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}


@pytest.mark.parametrize("loop", LOOPS)
def test_after_a_reset_a_call_fails_by_name_or_works(valkey_server: Server, namespace: str, loop: str) -> None:
    """With uvloop, a transport that was closed meanwhile raises a RuntimeError at the next write."""

    async def play() -> int:
        broker, worked = RedisStreamsBroker(proxy.url, namespace=namespace), 0
        for turn in range(60):
            if turn % 2:
                proxy.reset()
                await asyncio.sleep(0.001 * (turn % 5))
            with contextlib.suppress(BrokerError):
                await asyncio.gather(*(broker.statuses(["t1"]) for _ in range(3)))
                worked += 1
        await broker.close()
        return worked

    proxy = ChaosProxy(valkey_server.tcp_url)
    proxy.open()
    try:
        with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
            assert runner.run(play()) > 0
    finally:
        proxy.close()


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("among", ["alone", "while others wait"])
def test_an_idle_connection_that_was_reset_is_made_anew(valkey_server: Server, loop: str, among: str) -> None:
    """Handed out again, it would fail a call that was never sent, and whose outcome nobody would know then."""

    async def play() -> None:
        pool = make_pool(parse_address(proxy.url), reply_timeout_s=5.0, client_name="reset", connections=2)
        try:
            assert await ask(pool, "PING") == b"PONG"
            (idle,) = pool._available_connections
            proxy.reset()
            await eventually(lambda: bool(idle._writer and idle._writer.transport.is_closing()), what="it is reset")
            pool._waiting += among != "alone"

            assert await ask(pool, "PING") == b"PONG"
            assert [idle] == pool._available_connections
        finally:
            await pool.aclose()

    proxy = ChaosProxy(valkey_server.tcp_url)
    proxy.open()
    try:
        with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
            runner.run(play())
    finally:
        proxy.close()
