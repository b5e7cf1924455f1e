"""Workers in this process, over the broker in memory and over a real server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from stem.adapters.memory import InMemoryBroker
from stem.adapters.redis import RedisStreamsBroker
from stem.client import Stem
from stem.config import StemConfig
from stem.contracts import Broker
from stem.control.controller import Controller
from stem.registry import SimpleTaskRegistry
from stem.retry import FixedRetryStrategy
from stem.signals import StemSignals
from stem.worker import Worker, WorkerLifecycleConfig


@dataclass
class House:
    """A broker, an application on it, and the workers that a test starts."""

    broker: Broker
    registry: SimpleTaskRegistry = field(default_factory=SimpleTaskRegistry)
    workers: list[Worker] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.stem = Stem(self.broker, self.registry)
        self.clones: list[Broker] = []

    @property
    def controller(self) -> Controller:
        return Controller(self.broker, actor="test", timeout_s=5.0)

    async def worker(self, *, start: bool = True, clone: bool = False, **options: Any) -> Worker:
        """Make a worker with short times, and start it."""
        broker = self.broker
        if clone:
            broker = self.broker.clone()
            self.clones.append(broker)
        config = replace(StemConfig(heartbeat_interval_s=0.3, visibility_timeout_s=5.0), **options.pop("config", {}))
        chosen: dict[str, Any] = {
            "concurrency": 4,
            "retry_strategy": FixedRetryStrategy(0.02),
            "lifecycle": WorkerLifecycleConfig(soft_timeout=0.5, drain_timeout=5.0),
            "registry": self.registry,
        }
        worker = Worker(broker=broker, config=config, **(chosen | options))
        self.workers.append(worker)
        if start:
            await worker.start()
        return worker

    async def close(self) -> None:
        for worker in self.workers:
            await worker.shutdown("hard")
        await self.stem.close()
        for clone in self.clones:
            await clone.close()
        await self.broker.close()


@pytest.fixture(params=["memory", "valkey"])
async def house(request: pytest.FixtureRequest) -> AsyncIterator[House]:
    """A house on each kind of broker."""
    broker: Broker
    if request.param == "memory":
        broker = InMemoryBroker()
    else:
        url, namespace = request.getfixturevalue("valkey_url"), request.getfixturevalue("namespace")
        broker = RedisStreamsBroker(url, namespace=namespace)
    async for each in _opened(House(broker)):
        yield each


@pytest.fixture
async def memory_house() -> AsyncIterator[House]:
    """A house in memory alone, for what does not touch the broker."""
    async for each in _opened(House(InMemoryBroker())):
        yield each


async def _opened(house: House) -> AsyncIterator[House]:
    try:
        yield house
    finally:
        StemSignals.clear()
        await house.close()
