"""How much per second, and how long: out of totals that only grow and minutes that were counted. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Final

from stem.contracts import MinuteRow

WINDOW_S: Final = 60
MINUTES_KEPT: Final = 60


class Meter:
    """Turns readings of one growing total into a rate and a series of one value per second.

    Readings may come at any pace: what happened between two of them is spread evenly over the time between. A total
    that shrinks (the server lost data, a worker started anew) begins a new count.
    """

    __slots__ = ("_readings",)

    def __init__(self, size: int = WINDOW_S + 10) -> None:
        self._readings: deque[tuple[float, float]] = deque(maxlen=size)

    def read(self, total: float, at_s: float) -> None:
        """Take a reading; `at_s` is monotonic seconds."""
        if self._readings:
            last_at, last_total = self._readings[-1]
            if total < last_total:
                self._readings.clear()
            elif at_s <= last_at:
                return
        self._readings.append((at_s, total))

    def rate(self, over_s: float = 3.0) -> float:
        """Return the events per second over the last `over_s` seconds of readings; 0 before the second one."""
        if len(self._readings) < 2:
            return 0.0
        newest_at, newest = self._readings[-1]
        oldest_at, oldest = newest_at, newest
        for at_s, total in reversed(self._readings):
            oldest_at, oldest = at_s, total
            if newest_at - at_s >= over_s:
                break
        return (newest - oldest) / max(newest_at - oldest_at, 1e-9)

    def series(self, points: int) -> list[float]:
        """Return the last `points` seconds, oldest first; seconds before the first reading are left out."""
        readings = list(self._readings)
        if len(readings) < 2:
            return []
        end = readings[-1][0]
        points = min(points, int(end - readings[0][0] + 0.5))
        edges = [end - points + step for step in range(points + 1)]
        totals = _interpolate(readings, edges)
        return [after - before for before, after in pairwise(totals)]


def _interpolate(readings: Sequence[tuple[float, float]], edges: Sequence[float]) -> list[float]:
    """Return the total at each of `edges` (ascending), straight lines between the readings."""
    totals: list[float] = []
    index = 0
    for edge in edges:
        while index < len(readings) - 2 and readings[index + 1][0] <= edge:
            index += 1
        (from_s, low), (to_s, high) = readings[index], readings[index + 1]
        share = min(1.0, max(0.0, (edge - from_s) / max(to_s - from_s, 1e-9)))
        totals.append(low + (high - low) * share)
    return totals


class MinuteBook:
    """The last hour in minutes, and totals since this book was opened: exact, because `settle` counts each outcome."""

    def __init__(self) -> None:
        self._minutes: dict[int, dict[tuple[str, str], MinuteRow]] = {}
        self._totals: dict[str, dict[str, int]] = {}
        self._opened = False

    def update(self, rows: Iterable[MinuteRow]) -> None:
        """Take what the broker says of some minutes; a minute seen before only adds its growth to the totals."""
        for row in rows:
            minute = self._minutes.setdefault(row.at_ms, {})
            before = minute.get((row.queue, row.task))
            minute[row.queue, row.task] = row
            if not self._opened:
                continue
            totals = self._totals.setdefault(row.queue, {})
            for name, count in row.counts.items():
                grown = count - (before.counts.get(name, 0) if before is not None else 0)
                if grown > 0:
                    totals[name] = totals.get(name, 0) + grown
        self._opened = True
        if self._minutes:
            oldest = max(self._minutes) - (MINUTES_KEPT - 1) * 60_000
            for at_ms in [at_ms for at_ms in self._minutes if at_ms < oldest]:
                del self._minutes[at_ms]

    def total(self, name: str, queue: str | None = None) -> int:
        """Return how many of this outcome were counted since the book was opened."""
        if queue is not None:
            return self._totals.get(queue, {}).get(name, 0)
        return sum(totals.get(name, 0) for totals in self._totals.values())

    def recent(self, name: str, now_ms: int, window_ms: int) -> int:
        """Return how many of this outcome there were in the minutes that began within `window_ms`."""
        return sum(
            row.counts.get(name, 0)
            for at_ms, minute in self._minutes.items()
            if at_ms > now_ms - window_ms
            for row in minute.values()
        )

    def by_minute(self, name: str, points: int = MINUTES_KEPT) -> list[int]:
        """Return this outcome per minute, oldest first, up to the newest minute known; quiet minutes are 0."""
        if not self._minutes:
            return []
        newest, oldest = max(self._minutes), min(self._minutes)
        points = min(points, (newest - oldest) // 60_000 + 1)
        return [
            sum(row.counts.get(name, 0) for row in self._minutes.get(newest - back * 60_000, {}).values())
            for back in range(points - 1, -1, -1)
        ]

    def buckets(self, minutes: int = 5, *, queue: str | None = None, task: str | None = None) -> dict[int, int]:
        """Return the log2 histogram of run times over the newest `minutes`."""
        merged: dict[int, int] = {}
        for at_ms in sorted(self._minutes)[-minutes:]:
            for (row_queue, row_task), row in self._minutes[at_ms].items():
                if row.measured is None or queue not in (None, row_queue) or task not in (None, row_task):
                    continue
                for bucket, count in row.measured.buckets.items():
                    merged[bucket] = merged.get(bucket, 0) + count
        return merged

    def mean_wait_ms(self, minutes: int = 5) -> float | None:
        """Return the mean time from enqueue to start over the newest `minutes`; None when nothing was measured."""
        count = wait_ms = 0
        for at_ms in sorted(self._minutes)[-minutes:]:
            for row in self._minutes[at_ms].values():
                if row.measured is not None:
                    count += row.measured.count
                    wait_ms += row.measured.wait_ms
        return wait_ms / count if count else None


def percentile_ms(buckets: Mapping[int, int], share: float) -> float | None:
    """Return the run time that `share` of the tasks stayed under, from a log2 histogram; None when it is empty.

    Within a bucket the times are taken as spread evenly, so the answer is right to a factor of two at worst.
    """
    total = sum(count for count in buckets.values() if count > 0)
    if not total:
        return None
    wanted, below = share * total, 0
    for bucket in sorted(buckets):
        count = buckets[bucket]
        if count <= 0:
            continue
        if below + count >= wanted:
            low = 0.0 if bucket <= 0 else 2.0 ** (bucket - 1)
            high = 2.0 ** max(bucket, 0)
            return low + (high - low) * (wanted - below) / count
        below += count
    return 2.0 ** max(buckets)
