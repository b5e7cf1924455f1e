"""How each adapter of this repository is put under the contract."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from stem.adapters.memory import InMemoryBroker
from stem.adapters.redis.broker import RedisStreamsBroker
from stem.contracts import Broker, Limits
from stem.testing import FakeClock
from stem.testing.case import BrokerCase, Corruption
from tests.contract.invariants import broken_in
from tests.servers import Server


class MemoryCase(BrokerCase):
    """The memory adapter on a clock that stands still."""

    broker: InMemoryBroker

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.broker = InMemoryBroker(clock=self.clock)
        self._made: list[Broker] = [self.broker]

    async def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        await asyncio.sleep(0)

    def limits(self, limits: Limits) -> Broker:
        broker = InMemoryBroker(clock=self.clock, limits=limits)
        self._made.append(broker)
        return broker

    async def corrupt(self, task_id: str, how: Corruption) -> None:
        """What this adapter keeps as bytes; the rest of its record are Python values."""
        record = self.broker._core.records[task_id]
        record.body = record.error = record.progress = record.result = b"\xc1\xff"

    async def misplace(self, task_id: str, queue: str) -> None:
        core = self.broker._core
        core.lines[queue].take(core.records[task_id])

    async def set_back(self, seconds: float) -> None:
        self.clock.set_wall_ms(self.clock.wall_ms() - round(seconds * 1_000))

    async def close(self) -> None:
        for broker in self._made:
            await broker.close()


class RedisCase(BrokerCase):
    """The Redis adapter on a real server, in a namespace of its own."""

    real_time = True

    def __init__(self, server: Server, namespace: str) -> None:
        self._server = server
        self._namespace = namespace
        self._damaged = False
        self.broker = self._make(Limits())
        self._made: list[Broker] = [self.broker]

    def _make(self, limits: Limits) -> Broker:
        return RedisStreamsBroker(self._server.url, namespace=self._namespace, limits=limits)

    async def advance(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def limits(self, limits: Limits) -> Broker:
        broker = self._make(limits)
        self._made.append(broker)
        return broker

    async def corrupt(self, task_id: str, how: Corruption) -> None:
        self._damaged = True
        key = self._key("task", task_id)
        if how == "whole":
            self._server.command("SET", key, b"\xc1\x00 not a record \xff")
            return
        # Everything but what says where the task stands (state, owner, entry, queue, priority).
        junk = {
            field: b"\xffjunk" for field in ("a", "c", "k", "l", "at", "s1", "x", "b", "er", "pg", "gb", "g1", "tl")
        }
        for field, value in junk.items():
            self._server.command("HSET", key, field, value)

    async def misplace(self, task_id: str, queue: str) -> None:
        """As if the keys of the queue had been lost, but not the records."""
        self._damaged = True
        for part in ("delayed", "retry", "held"):
            self._server.command("ZREM", self._key("q", queue, part), task_id)
        for priority in range(10):
            self._server.command("DEL", self._key("q", queue, f"p{priority}"))

    async def set_back(self, seconds: float) -> None:
        """A server's clock cannot be set: what it has stored is moved ahead instead."""
        by = round(seconds * 1_000)
        client: Any
        with self._server.client() as client:
            for key in client.scan_iter(match=f"[{{]{self._namespace}}}:*", count=1_000):
                part = key.rpartition(":")[2]
                if part in ("workers", "lease", "delayed", "retry", "held", "dead"):
                    for member in client.zrange(key, 0, -1):
                        client.zincrby(key, by, member)
                elif part in ("meta", "fleet"):
                    for field in {"sw", "hs", "rp", "last", "resumed"} & {*client.hkeys(key)}:
                        client.hincrby(key, field, by)

    def _key(self, *parts: str) -> str:
        return ":".join((f"{{{self._namespace}}}", *parts))

    async def close(self) -> None:
        for broker in self._made:
            await broker.close()
        if not self._damaged:
            assert broken_in(self._server, self._namespace) == []


@asynccontextmanager
async def closing(make: Callable[[], MemoryCase | RedisCase]) -> AsyncIterator[MemoryCase | RedisCase]:
    """Make a case and close what it made."""
    case = make()
    try:
        yield case
    finally:
        await case.close()
