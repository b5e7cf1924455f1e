"""A connection that stays open and carries nothing is noticed, and another one is made."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from stem.adapters.redis import RedisStreamsBroker, subscription, waiting
from stem.contracts import NewTask
from stem.errors import BrokerError
from tests.faults.chaos import ChaosProxy
from tests.faults.rules import DOWN, Fault, of_kind
from tests.servers import Server
from tests.waiting import eventually


@pytest.fixture
async def proxy(valkey_server: Server, tmp_path: Path) -> AsyncIterator[ChaosProxy]:
    async with ChaosProxy(valkey_server.url, tmp_path / "p") as proxy:
        yield proxy


@pytest.fixture
async def broker(proxy: ChaosProxy, namespace: str) -> AsyncIterator[RedisStreamsBroker]:
    broker = RedisStreamsBroker(proxy.url, namespace=namespace)
    yield broker
    await broker.close()


async def test_a_bell_that_is_cut_off_says_so_and_is_replaced(
    broker: RedisStreamsBroker, proxy: ChaosProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "RELEASED_WITHIN_S", 0.2)
    await broker.idle(["default"], 0.05)
    with proxy.having(Fault(hole=True, sides=DOWN, where=of_kind("bell"))):
        began = time.monotonic()
        with pytest.raises(BrokerError):
            await broker.idle(["default"], 0.05)
        assert time.monotonic() - began < 5.0  # the read alone would go on for ten

    ringing = asyncio.create_task(broker.idle(["default"], 2.0))
    await eventually(lambda: proxy.links(of_kind("bell")), what="a new bell is there")
    began = time.monotonic()
    await broker.enqueue([NewTask(id="t1", task="x", queue="default", body=b"b")])
    await asyncio.wait_for(ringing, 10)
    assert time.monotonic() - began < 1.9  # it rang: the time was not up


async def test_whoever_waits_for_results_hears_again_after_his_subscription_was_cut_off(
    broker: RedisStreamsBroker, proxy: ChaosProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscription, "PING_EVERY_S", 0.1)
    monkeypatch.setattr(subscription, "PONG_WITHIN_S", 0.2)
    await broker.enqueue([NewTask(id="t1", task="x", queue="default", body=b"b", delay_ms=3_600_000)])
    told = asyncio.create_task(broker.wait("t1", 20.0))
    await eventually(lambda: proxy.links(of_kind("subscription")), what="it has subscribed")
    (old,) = proxy.links(of_kind("subscription"))
    proxy.on(Fault(hole=True, where=lambda link: link is old))

    def replaced() -> bool:
        return any(link is not old for link in proxy.links(of_kind("subscription")))

    await eventually(replaced, what="another subscription was made")
    await eventually(lambda: proxy.seen["SUBSCRIBE"] >= 2, what="and it has subscribed")
    assert not told.done()
    told.cancel()
