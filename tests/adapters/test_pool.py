"""The asyncio pool: whoever waits for a connection gets one as soon as one is free. Resets: faults/test_reset.py."""

from __future__ import annotations

import asyncio

import pytest

from stem.adapters.redis.address import parse_address
from stem.adapters.redis.client import make_pool
from stem.adapters.redis.connections import ask
from tests.servers import Server
from tests.waiting import eventually


async def test_who_is_cancelled_as_a_connection_is_free_leaves_it_to_the_next(valkey_server: Server) -> None:
    pool = make_pool(parse_address(valkey_server.url), reply_timeout_s=5.0, client_name="pool", connections=1)
    try:
        held = await pool.get_connection()
        first, second = (asyncio.create_task(ask(pool, "ECHO", word)) for word in ("first", "second"))
        await eventually(lambda: len(pool._condition._waiters) == 2, what="both wait")

        await pool.release(held)
        first.cancel()

        async with asyncio.timeout(3.0):
            assert await second == b"second"
        with pytest.raises(asyncio.CancelledError):
            await first
        assert not pool._in_use_connections
    finally:
        await pool.aclose()
