"""One timer for all time limits of the work loop, however many tasks run."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable


class Wheel:
    """Calls back at given times. Belongs to the work loop.

    Entries are never taken out: most tasks end long before their limit, so a callback has to look whether it still
    matters. The heap is rebuilt when what is dead in it outweighs what lives (`alive` says which).
    """

    __slots__ = ("_armed_for", "_counter", "_handle", "_heap", "_loop", "_rebuild_at")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._heap: list[tuple[float, int, Callable[[], bool], Callable[[], None]]] = []
        self._counter = itertools.count()
        self._handle: asyncio.TimerHandle | None = None
        self._armed_for = 0.0
        self._rebuild_at = 1_000

    def __len__(self) -> int:
        return len(self._heap)

    def after(self, seconds: float, alive: Callable[[], bool], call: Callable[[], None]) -> None:
        """Call `call` in `seconds`, if `alive()` is true then."""
        at = self._loop.time() + seconds
        heapq.heappush(self._heap, (at, next(self._counter), alive, call))
        if len(self._heap) > self._rebuild_at:
            self._heap = [entry for entry in self._heap if entry[2]()]
            heapq.heapify(self._heap)
            self._rebuild_at = max(1_000, 2 * len(self._heap))
        if self._handle is None or at < self._armed_for:
            self._arm(at)

    def close(self) -> None:
        self._heap.clear()
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _arm(self, at: float) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._armed_for = at
        self._handle = self._loop.call_at(at, self._turn)

    def _turn(self) -> None:
        self._handle = None
        now = self._loop.time() + 0.001  # the loop's clock may fire a timer a little early
        try:
            while self._heap and self._heap[0][0] <= now:
                _, _, alive, call = heapq.heappop(self._heap)
                if alive():
                    call()
        finally:  # whatever came of one, the others have their time
            if self._heap and self._handle is None:
                self._arm(self._heap[0][0])
