"""Leases and delays go by the server's clock: a machine whose own clock is wrong neither keeps nor loses a task."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import pytest

from stem.adapters.redis import RedisStreamsBroker
from stem.contracts import Outcome
from stem.testing.case import QUEUE, Hand, enqueue, lease
from tests.servers import Server

HOUR_S = 3600
LEASE_MS = 30_000
SLACK_MS = 60_000
"""Generous: what is told apart is an hour."""


@pytest.fixture(params=[HOUR_S, -HOUR_S], ids=["an hour ahead", "an hour behind"])
async def broker(
    request: pytest.FixtureRequest, valkey_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[RedisStreamsBroker]:
    """A broker in a process whose clock is wrong."""
    now, now_ns = time.time, time.time_ns
    monkeypatch.setattr(time, "time", lambda: now() + request.param)
    monkeypatch.setattr(time, "time_ns", lambda: now_ns() + request.param * 1_000_000_000)
    made = RedisStreamsBroker(valkey_url, namespace=namespace)
    yield made
    await made.close()


async def test_a_wrong_clock_moves_no_lease_and_no_delay(
    broker: RedisStreamsBroker, valkey_server: Server, namespace: str
) -> None:
    def left_ms(part: str, task_id: str) -> int:
        """Return how far ahead of the server's clock a task stands in a set."""
        seconds, _ = valkey_server.command("TIME")
        score = valkey_server.command("ZSCORE", f"{{{namespace}}}:q:{QUEUE}:{part}", task_id)
        return int(float(score)) - int(seconds) * 1000

    hand = Hand(broker=broker, id="w", lease_ms=LEASE_MS)
    delayed = await enqueue(broker, delay_ms=LEASE_MS)
    running = await enqueue(broker)
    delivery = await hand.take()
    seen = [left_ms("delayed", delayed), left_ms("lease", running)]
    await hand.beat(delivery)
    seen.append(left_ms("lease", running))
    assert await broker.extend("w", lease(delivery))
    seen.append(left_ms("lease", running))
    await broker.adopt("w", [QUEUE], [])
    seen.append(left_ms("lease", running))
    await hand.end(delivery, Outcome.RETRY, delay_ms=LEASE_MS)
    seen.append(left_ms("retry", running))

    assert [one for one in seen if abs(one - LEASE_MS) > SLACK_MS] == []
