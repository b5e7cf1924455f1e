"""A result backend that lives in this process."""

from __future__ import annotations

import heapq
import threading

from stem.clock import Clock, SystemClock
from stem.errors import DecodeError
from stem.messages.status import TaskStatus


class InMemoryResultBackend:
    """Keeps encoded statuses until their time is over; may be used from any event loop and thread.

    See `stem.contracts.ResultBackend`.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._kept: dict[str, tuple[int, int, bytes]] = {}
        self._ends: list[tuple[int, str]] = []

    async def store(self, status: TaskStatus, *, ttl_ms: int) -> bool:
        data = status.encode()
        with self._lock:
            now = self._clock.wall_ms()
            self._expire(now)
            kept = self._kept.get(status.id)
            if kept is not None and kept[0] >= status.token:
                return False
            self._kept[status.id] = (status.token, now + ttl_ms, data)
            heapq.heappush(self._ends, (now + ttl_ms, status.id))
            return True

    async def get(self, task_id: str) -> TaskStatus | None:
        with self._lock:
            self._expire(self._clock.wall_ms())
            kept = self._kept.get(task_id)
        if kept is None:
            return None
        try:
            return TaskStatus.decode(kept[2])
        except DecodeError:
            return None

    def clone(self) -> InMemoryResultBackend:
        """Return this one: it belongs to no event loop."""
        return self

    async def close(self) -> None:
        """Nothing is open; what is stored stays readable."""

    def _expire(self, now: int) -> None:
        while self._ends and self._ends[0][0] <= now:
            _end, task_id = heapq.heappop(self._ends)
            kept = self._kept.get(task_id)
            if kept is not None and kept[1] <= now:
                del self._kept[task_id]
