"""How much per second, and how long: out of totals that only grow and minutes that were counted. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import field
from itertools import pairwise
from typing import Any, Final, TypeVar

from stem.contracts import MinuteRow
from stem.record import record

WINDOW_S: Final = 60
MINUTES_KEPT: Final = 60
T = TypeVar("T")


class Meter:
    """Turns readings of one growing total into a rate and a series of one value per second.

    Readings may come at any pace: what happened between two of them is spread evenly over the time between. A total
    that shrinks (the server lost data, a worker started anew) begins a new count.
    """

    __slots__ = ("_readings",)

    def __init__(self, size: int = WINDOW_S + 10) -> None:
        self._readings: deque[tuple[float, float]] = deque(maxlen=size)

    def __copy__(self) -> Meter:
        twin = Meter(self._readings.maxlen or WINDOW_S)
        twin._readings.extend(self._readings)
        return twin

    def read(self, total: float, at_s: float) -> None:
        """Take a reading; `at_s` is monotonic seconds."""
        if self._readings:
            last_at, last_total = self._readings[-1]
            if total < last_total:
                self._readings.clear()
            elif at_s <= last_at:
                return
        self._readings.append((at_s, total))

    def seed(self, readings: Sequence[tuple[float, float]]) -> None:
        """Take readings of before the first one, oldest first; none once there is one."""
        if not self._readings:
            self._readings.extend(readings)

    def rate(self, over_s: float = 3.0) -> float:
        """Return the events per second over the last `over_s` seconds of readings; 0 before the second one."""
        if len(self._readings) < 2:
            return 0.0
        newest_at, newest = self._readings[-1]
        edge = newest_at - over_s
        later_at, later = newest_at, newest
        for at_s, total in reversed(self._readings):
            if at_s <= edge < later_at:
                # Readings lie far apart (before the first one, in a gap): of those only what lies in the window counts.
                share = (edge - at_s) / (later_at - at_s)
                return (newest - (total + (later - total) * share)) / over_s
            later_at, later = at_s, total
        return (newest - later) / max(newest_at - later_at, 1e-9)

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


@record
class Flow:
    """What came of the tasks of one queue or one name, over some minutes.

    Attributes:
        counts: as `MinuteRow.counts`.
        timed: how many run times are in `buckets`; their sum is `run_ms`, that of the times they waited `wait_ms`.
    """

    name: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)
    timed: int = 0
    wait_ms: int = 0
    run_ms: int = 0
    buckets: Mapping[int, int] = field(default_factory=dict)

    def count(self, *names: str) -> int:
        """Return how many there were of these outcomes together."""
        return sum(self.counts.get(name, 0) for name in names)

    @property
    def mean_wait_ms(self) -> float | None:
        """Return the mean time from enqueue to start; None when nothing was measured."""
        return self.wait_ms / self.timed if self.timed else None

    def percentile_ms(self, share: float) -> float | None:
        return percentile_ms(self.buckets, share)


def flow_of(rows: Iterable[MinuteRow], name: str = "") -> Flow:
    """Return the sum of these rows."""
    return _sum((_of_row(row) for row in rows), name)


def _of_row(row: MinuteRow) -> Flow:
    timed = row.measured
    if timed is None:
        return Flow(counts=row.counts)
    return Flow(counts=row.counts, timed=timed.count, wait_ms=timed.wait_ms, run_ms=timed.run_ms, buckets=timed.buckets)


def _sum(flows: Iterable[Flow], name: str = "") -> Flow:
    counts: dict[str, int] = {}
    buckets: dict[int, int] = {}
    timed = wait_ms = run_ms = 0
    for flow in flows:
        for outcome, count in flow.counts.items():
            counts[outcome] = counts.get(outcome, 0) + count
        for bucket, count in flow.buckets.items():
            buckets[bucket] = buckets.get(bucket, 0) + count
        timed, wait_ms, run_ms = timed + flow.timed, wait_ms + flow.wait_ms, run_ms + flow.run_ms
    return Flow(name=name, counts=counts, timed=timed, wait_ms=wait_ms, run_ms=run_ms, buckets=buckets)


class MinuteBook:
    """The last hour in minutes, and totals since this book was opened: exact, because `settle` counts each outcome.

    What is asked of it is worked out once and remembered until it changes: it is asked at each drawing, and of an hour
    only the newest minutes change.
    """

    def __init__(self) -> None:
        self._minutes: dict[int, dict[tuple[str, str], MinuteRow]] = {}
        self._totals: dict[str, dict[str, int]] = {}
        self._opened = False
        self._newest_ms = 0
        self._whole = False
        self._known: dict[Hashable, Any] = {}
        self._flows: dict[int, dict[str | None, Flow]] = {}

    def update(self, rows: Iterable[MinuteRow], now_ms: int = 0) -> None:
        """Take what the broker says of some minutes; a minute seen before only adds its growth to the totals.

        Args:
            now_ms: by the broker's clock: the hour ends there, also when nothing has happened for long, and minutes
                without a row were quiet ones. Without it the oldest and newest row are its ends. Later minutes than it
                are of before the clock was set back: they count no more, and are kept for an hour, for as these minutes
                come again the broker adds to what it has counted in them.
        """
        self._known.clear()
        for row in rows:
            minute = self._minutes.setdefault(row.at_ms, {})
            before = minute.get((row.queue, row.task))
            minute[row.queue, row.task] = row
            self._flows.pop(row.at_ms, None)
            if not self._opened:
                continue
            totals = self._totals.setdefault(row.queue, {})
            for name, count in row.counts.items():
                grown = count - (before.counts.get(name, 0) if before is not None else 0)
                if grown > 0:
                    totals[name] = totals.get(name, 0) + grown
        self._opened, self._whole = True, self._whole or now_ms > 0
        self._newest_ms = now_ms // 60_000 * 60_000 if now_ms else max(self._minutes, default=0)
        kept_ms = (MINUTES_KEPT - 1) * 60_000
        # Quiet minutes have no rows, though their sums are remembered as well.
        for known in (self._minutes, self._flows):
            for at_ms in [at_ms for at_ms in known if abs(at_ms - self._newest_ms) > kept_ms]:
                del known[at_ms]

    def _once(self, key: Hashable, find: Callable[[], T]) -> T:
        if key not in self._known:
            self._known[key] = find()
        found: T = self._known[key]
        return found

    def _minute(self, at_ms: int, queue: str | None) -> Flow:
        known = self._flows.setdefault(at_ms, {})
        if queue not in known:
            rows = self._minutes.get(at_ms, {})
            known[queue] = flow_of(row for (name, _), row in rows.items() if queue in (None, name))
        return known[queue]

    def _since(self, minutes: int) -> list[int]:
        oldest = self._newest_ms - (minutes - 1) * 60_000
        return [at_ms for at_ms in self._minutes if oldest <= at_ms <= self._newest_ms]

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
            if now_ms - window_ms < at_ms <= now_ms
            for row in minute.values()
        )

    def flow(self, minutes: int = MINUTES_KEPT, *, queue: str | None = None) -> Flow:
        """Return what happened in the last `minutes`, in one queue or in all."""
        return self._once(
            ("flow", minutes, queue), lambda: _sum(self._minute(at, queue) for at in self._since(minutes))
        )

    def by_task(self, minutes: int = MINUTES_KEPT, *, queue: str | None = None) -> list[Flow]:
        """Return the same per task name; first what took most of the workers' time."""
        return self._once(("tasks", minutes, queue), lambda: self._by_task(minutes, queue))

    def _by_task(self, minutes: int, queue: str | None) -> list[Flow]:
        grouped: dict[str, list[MinuteRow]] = {}
        for at_ms in self._since(minutes):
            for (row_queue, task), row in self._minutes[at_ms].items():
                if queue in (None, row_queue):
                    grouped.setdefault(task, []).append(row)
        flows = [flow_of(rows, name) for name, rows in grouped.items()]
        return sorted(flows, key=lambda flow: (-flow.run_ms, -flow.count("succeeded", "failed"), flow.name))

    def each_minute(self, points: int = MINUTES_KEPT, *, queue: str | None = None) -> list[Flow]:
        """Return the same per minute, oldest first, this minute last."""
        return self._once(("minutes", points, queue), lambda: self._each_minute(points, queue))

    def _each_minute(self, points: int, queue: str | None) -> list[Flow]:
        if not self._minutes:
            return []
        if not self._whole:
            points = min(points, (self._newest_ms - min(self._minutes)) // 60_000 + 1)
        return [self._minute(self._newest_ms - back * 60_000, queue) for back in range(points - 1, -1, -1)]


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
