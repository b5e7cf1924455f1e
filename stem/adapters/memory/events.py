"""Task events, for whoever watches now."""

from __future__ import annotations

from collections.abc import Sequence

from stem.adapters.memory.control import wake
from stem.adapters.memory.handle import Handle
from stem.adapters.memory.waiting import LoopWaiter
from stem.contracts import EventBatch
from stem.messages.event import Event


class InMemoryEventLog:
    """See `stem.contracts.EventLog`."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle
        self._core = handle.core

    async def emit(self, events: Sequence[Event]) -> None:
        with self._core.step() as now:
            if events and self._core.batches.watched(now):
                self._core.batches.append(events, now)
                self._core.waits.fire_all("events")

    async def watch(self, watcher: str, *, for_ms: int) -> None:
        with self._core.step() as now:
            if self._core.batches.watch(watcher, now + for_ms, now):
                wake(self._core)

    async def unwatch(self, watcher: str) -> None:
        with self._core.step():
            self._core.batches.unwatch(watcher)

    async def tail(self) -> str:
        with self._core.step():
            return self._core.batches.tail

    async def read(self, cursor: str, *, timeout_s: float) -> EventBatch:
        waiter = LoopWaiter()
        with self._core.step() as now:
            batch = self._core.batches.after(cursor, now)
            if batch.events or batch.missed or timeout_s <= 0:
                return batch
            self._core.waits.add("events", waiter)
        try:
            with self._handle.released_by_close(waiter):
                await waiter.wait(timeout_s)
        finally:
            with self._core.lock:
                self._core.waits.discard("events", waiter)
        with self._core.step() as now:
            return self._core.batches.after(cursor, now)
