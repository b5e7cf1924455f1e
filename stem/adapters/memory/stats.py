"""What happened: counts by minute, and the last final rows. Bounded, and kept whether anybody watches or not."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from stem.adapters.memory.record import Record
from stem.contracts import FinalRow, Measured, MinuteRow
from stem.messages.status import TaskState

MINUTE_MS: Final = 60_000
MINUTES_KEPT: Final = 180
NAMES_KEPT: Final = 200
ROWS_KEPT: Final = 10_000


@dataclass(slots=True)
class _Tally:
    counts: dict[str, int] = field(default_factory=dict)
    measured: int = 0
    wait_ms: int = 0
    run_ms: int = 0
    buckets: dict[int, int] = field(default_factory=dict)


class Stats:
    """Counters of the last three hours by minute, queue and task name (200 names a minute, then `~other`)."""

    def __init__(self) -> None:
        self._minutes: dict[int, dict[tuple[str, str], _Tally]] = {}

    def count(self, now: int, queue: str, task: str, what: str) -> None:
        counts = self._tally(now, queue, task).counts
        counts[what] = counts.get(what, 0) + 1

    def measure(self, now: int, rows: Sequence[Measured]) -> None:
        for row in rows:
            tally = self._tally(now, row.queue, row.task)
            tally.measured += row.count
            tally.wait_ms += row.wait_ms
            tally.run_ms += row.run_ms
            for bucket, number in row.buckets.items():
                tally.buckets[bucket] = tally.buckets.get(bucket, 0) + number

    def rows(self, now: int, count: int) -> list[MinuteRow]:
        """Return the rows of the last `count` minutes, oldest first."""
        first = now // MINUTE_MS - min(count, MINUTES_KEPT) + 1
        return [
            MinuteRow(
                at_ms=minute * MINUTE_MS,
                queue=queue,
                task=task,
                counts=dict(tally.counts),
                measured=Measured(
                    queue=queue,
                    task=task,
                    count=tally.measured,
                    wait_ms=tally.wait_ms,
                    run_ms=tally.run_ms,
                    buckets=dict(tally.buckets),
                )
                if tally.measured
                else None,
            )
            for minute in sorted(self._minutes)
            if minute >= first
            for (queue, task), tally in sorted(self._minutes[minute].items())
        ]

    def _tally(self, now: int, queue: str, task: str) -> _Tally:
        minute = now // MINUTE_MS
        tallies = self._minutes.get(minute)
        if tallies is None:
            for old in [kept for kept in self._minutes if kept <= minute - MINUTES_KEPT]:
                del self._minutes[old]
            tallies = self._minutes[minute] = {}
        tally = tallies.get((queue, task))
        if tally is None:
            key = (queue, task) if len(tallies) < NAMES_KEPT else (queue, "~other")
            tally = tallies.setdefault(key, _Tally())
        return tally


class History:
    """The last 10 000 final rows, each a tab-joined line, numbered from 1."""

    def __init__(self) -> None:
        self._rows: deque[bytes] = deque(maxlen=ROWS_KEPT)
        self._written = 0

    def add(self, record: Record, now: int, error_type: str) -> None:
        row = (
            record.id,
            record.state.value,
            record.task,
            record.queue,
            record.worker,
            str(record.attempt),
            str(record.enqueued_ms),
            str(record.started_ms or 0),
            str(now),
            error_type.replace("\t", " ")[:100],
        )
        self._rows.append("\t".join(row).encode("utf-8", "replace"))
        self._written += 1

    def newest(self, before: int | None = None) -> Iterator[tuple[int, FinalRow]]:
        """Yield number and row, newest first, from below number `before`."""
        skip = 0 if before is None else max(0, self._written - before + 1)
        number = self._written
        for line in reversed(self._rows):
            if skip:
                skip -= 1
            else:
                yield number, _final_row(line)
            number -= 1


def _final_row(line: bytes) -> FinalRow:
    task_id, state, task, queue, worker, attempt, enqueued, started, finished, error_type = line.decode().split("\t")
    return FinalRow(
        id=task_id,
        task=task,
        queue=queue,
        state=TaskState(state),
        worker=worker,
        attempt=int(attempt),
        enqueued_at_ms=int(enqueued),
        started_at_ms=int(started),
        finished_at_ms=int(finished),
        error_type=error_type,
    )
