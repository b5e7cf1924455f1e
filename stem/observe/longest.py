"""What runs, longest first: kept in order as it comes and goes, so that nobody has to sort it to see the first ones."""

from __future__ import annotations

from collections.abc import Mapping
from heapq import heapify, heappop, heappush
from typing import Final

from stem.observe.rows import TaskLine

_SLACK: Final = 1_000

_Place = tuple[int, str]


class Longest:
    """A heap of when each running task started.

    Nothing is taken out as it ends: what runs no longer, or was said to have started at another time, is dropped when
    it comes up.
    """

    def __init__(self, running: Mapping[str, TaskLine]) -> None:
        """Follow these tasks; whoever changes them says so by `put`."""
        self._running = running
        self._heap: list[_Place] = []
        self._placed: set[_Place] = set()

    def put(self, row: TaskLine) -> None:
        """Take note of a task that runs, or of another time of its start."""
        place = row.started_ms, row.key
        if place in self._placed:
            return
        self._placed.add(place)
        heappush(self._heap, place)
        if len(self._heap) > 2 * len(self._running) + _SLACK:
            self._heap = [(each.started_ms, each.key) for each in self._running.values()]
            heapify(self._heap)
            self._placed = set(self._heap)

    def first(self, count: int) -> list[TaskLine]:
        """Return those that run longest, at most `count`; of equal ones the lower key comes first."""
        found: list[tuple[_Place, TaskLine]] = []
        while self._heap and len(found) < count:
            place = heappop(self._heap)
            row = self._running.get(place[1])
            if row is None or row.started_ms != place[0]:
                self._placed.discard(place)
            else:
                found.append((place, row))
        for place, _ in found:
            heappush(self._heap, place)
        return [row for _, row in found]
