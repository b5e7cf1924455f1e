"""What the stopwatch in the workers wrote: runs by time, from which rates are computed. Pure."""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

FORMAT: Final = struct.Struct("<IIqqq")
"""As in benchmarks/peers/stopwatch.py, which can import nothing of ours."""


@dataclass(frozen=True, slots=True)
class Record:
    """`count` runs in process `pid` since its last record; `value_ns` is how late a `mark` was."""

    pid: int
    count: int
    at_ns: int
    cpu_ns: int
    value_ns: int


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of time in which every process was at work."""

    tasks: int
    seconds: float
    cpu_s: float

    @property
    def per_s(self) -> float:
        return self.tasks / self.seconds

    @property
    def cpu_us(self) -> float:
        return self.cpu_s / self.tasks * 1e6


def parse(data: bytes) -> list[Record]:
    """Return the whole records, by time; a last one that is being written is left out."""
    whole = len(data) - len(data) % FORMAT.size
    return sorted((Record(*each) for each in FORMAT.iter_unpack(data[:whole])), key=lambda each: each.at_ns)


def total(records: Sequence[Record]) -> int:
    return sum(each.count for each in records)


def window(records: Sequence[Record], *, warm_up: int, processes: int = 1) -> Window:
    """Return the rate from the end of the warm-up to the end; with several processes, while all of them were at work.

    Args:
        warm_up: runs that do not count, over all processes.
        processes: that share the work; 1 also for a queue that makes a new one for each task.

    Raises:
        ValueError: too little was recorded.
    """
    streams: dict[int, list[Record]] = defaultdict(list)
    for each in records:
        streams[each.pid if processes > 1 else 0].append(each)
    if len(streams) != processes:
        raise ValueError(f"{len(streams)} processes ran tasks where {processes} were expected")
    starts = [_start_ns(stream, warm_up // processes) for stream in streams.values()]
    start_ns, end_ns = max(starts), min(stream[-1].at_ns for stream in streams.values())
    counted = sum(each.count for each in records if start_ns < each.at_ns <= end_ns)
    if not counted or end_ns <= start_ns:
        raise ValueError("the workers were not at work at the same time: give them more tasks")
    cpu_ns = 0
    for stream in streams.values():
        inside = [each.cpu_ns for each in stream if start_ns <= each.at_ns <= end_ns]
        cpu_ns += max(inside) - min(inside) if len({each.pid for each in stream}) == 1 and inside else 0
    return Window(counted, (end_ns - start_ns) / 1e9, cpu_ns / 1e9)


def _start_ns(stream: Sequence[Record], warm_up: int) -> int:
    done = 0
    for each in stream:
        done += each.count
        if done >= warm_up:
            return each.at_ns
    raise ValueError(f"{done} tasks were recorded, fewer than the warm-up of {warm_up}")
