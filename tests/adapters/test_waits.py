"""Waits for the end of a task: one subscription serves them, and stands as long as there are any."""

from __future__ import annotations

import asyncio

import pytest

from stem.adapters.redis import RedisStreamsBroker, waiting
from stem.adapters.redis.subscription import Subscription
from tests.waiting import eventually


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Hold every subscription back at its opening, until it is set."""
    gate, opened = asyncio.Event(), Subscription.open

    async def held_back(self: Subscription) -> None:
        await gate.wait()
        await opened(self)

    monkeypatch.setattr(Subscription, "open", held_back)
    return gate


async def test_a_wait_cancelled_before_the_subscription_stands_is_forgotten(
    valkey_url: str, namespace: str, gate: asyncio.Event
) -> None:
    broker = RedisStreamsBroker(valkey_url, namespace=namespace)
    wait = asyncio.create_task(broker.wait("t", 30))
    await eventually(lambda: broker._waits._told)

    wait.cancel()
    await asyncio.wait({wait})

    assert wait.cancelled()
    assert not broker._waits._told
    gate.set()
    await broker.close()


async def test_a_wait_that_comes_while_the_subscription_closes_gets_another(
    valkey_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "QUIET_S", 0.01)
    closing, go, close = asyncio.Event(), asyncio.Event(), Subscription.close

    async def slowly(self: Subscription) -> None:
        closing.set()
        await go.wait()
        await close(self)

    monkeypatch.setattr(Subscription, "close", slowly)
    broker = RedisStreamsBroker(valkey_url, namespace=namespace)
    waits = broker._waits
    async with waits.told_of("first", within_s=5):
        pass
    await asyncio.wait_for(closing.wait(), 5)

    adding = asyncio.create_task(waits.add("second", 5))
    await asyncio.sleep(0)
    go.set()
    told = await adding
    await broker._client.commands([("PUBLISH", broker._client.keys.done_channel(waits.client_id), "second")])

    await asyncio.wait_for(told.wait(), 5)
    waits.remove("second", told)
    await broker.close()
