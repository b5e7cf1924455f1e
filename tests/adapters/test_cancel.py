"""A cancelled call ends cancelled, whatever the client library makes of it.

`asyncio.wait_for` of Python 3.11, through which redis-py sends, returns as if nothing had happened when the
cancellation meets a send that is done already. A loop that is cancelled once would go on for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Final

import pytest

from stem.adapters.redis import RedisStreamsBroker
from stem.adapters.redis.backend import RedisResultBackend
from stem.contracts import Broker
from stem.errors import BrokerError

CALLS: Final[dict[str, Callable[[Broker], Coroutine[Any, Any, object]]]] = {
    "a command": lambda broker: broker.census.history(1),
    "a pipeline": lambda broker: broker.census.minutes(1),
    "a script": lambda broker: broker.retry_now(["no-such-task"]),
    "a blocking read": lambda broker: broker.control.replies("no-such-command", timeout_s=0.01),
    "a wait for work": lambda broker: broker.idle(["default"], 0.01),
    "a wait for a task": lambda broker: broker.wait("no-such-task", 0.01),
}


@pytest.fixture
async def broker(valkey_url: str, namespace: str) -> AsyncIterator[RedisStreamsBroker]:
    broker = RedisStreamsBroker(valkey_url, namespace=namespace)
    yield broker
    await broker.close()


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("connected", [True, False])
async def test_a_call_that_is_cancelled_ends_cancelled(broker: RedisStreamsBroker, call: str, connected: bool) -> None:
    """At whatever step of the event loop: up to that where it would have ended."""
    if connected:
        await CALLS[call](broker)
    cancelled = 0
    for steps in range(60):
        each = broker if connected else broker.clone()
        task = asyncio.ensure_future(CALLS[call](each))
        for _ in range(steps):
            await asyncio.sleep(0)
        if done := task.done():
            task.result()
        else:
            cancelled += 1
            task.cancel()
            await asyncio.wait({task}, timeout=10)
            assert task.cancelled(), f"after {steps} steps it went on"
        if not connected:
            await each.close()
        if done:
            break
    assert cancelled > 2


async def test_a_loop_around_failing_calls_ends_too(valkey_url: str, namespace: str) -> None:
    """A loop goes on after a broker error; one that hides a cancellation would keep it going."""
    backend = RedisResultBackend("unix:///no/such/socket", namespace=namespace)

    async def look() -> None:
        while True:
            try:
                await backend.get("x")
            except BrokerError:
                await asyncio.sleep(0)

    for steps in range(1, 60):
        task = asyncio.ensure_future(look())
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task}, timeout=10)

        assert task.cancelled(), f"after {steps} steps it went on"
    await backend.close()
