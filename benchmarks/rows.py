"""The table of the design's section on speed: what is measured, in which unit, and what Stem has to reach. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from benchmarks import figures

Better = Literal["higher", "lower"]


@dataclass(frozen=True, slots=True)
class Target:
    """What `of` has to reach: at least (or at most) `value`, or `value` times another entry's median.

    Attributes:
        against: "" for an absolute value, `best` for the best peer, else an entry's label.
    """

    value: float
    against: str = ""
    of: str = "stem"


@dataclass(frozen=True, slots=True)
class Row:
    name: str
    title: str
    unit: str
    better: Better
    targets: tuple[Target, ...] = ()


def _both(goal: float, raw: float) -> tuple[Target, Target]:
    """Return a goal of the design's table, and the same as a ratio: only those carry over from one machine to another.

    Args:
        raw: what raw reached on the machine of that table.
    """
    return Target(goal), Target(figures.rounded(goal / raw), "raw")


MILLION: Final = "1 000 000"
EMPTY: Final = "none queued"
FULL: Final = f"{MILLION} queued"

ROWS: Final = (
    Row(
        "noop",
        "no-op tasks, one worker process, results stored",
        "tasks/s",
        "higher",
        (Target(18_000), Target(0.45, "raw"), Target(6, "best")),
    ),
    Row("ignored", "no-op tasks, results ignored", "tasks/s", "higher", _both(24_000, 118_600)),
    Row("two", "no-op tasks, two worker processes", "tasks/s", "higher", _both(28_000, 66_000)),
    Row("nap", "10 ms `async` tasks, concurrency 100", "tasks/s", "higher", _both(6_500, 7_360)),
    Row("enqueue-one", "enqueue, one awaited at a time", "tasks/s", "higher", (Target(0.8, "raw"),)),
    Row("enqueue-sync", "enqueue, blocking client", "tasks/s", "higher", (Target(0.9, "raw"),)),
    Row("enqueue-batch", "enqueue, batch or concurrent", "tasks/s", "higher", _both(50_000, 85_500)),
    Row("start-p50", "enqueue to start, idle worker, median", "ms", "lower", _both(0.60, 0.42)),
    Row("start-p99", "enqueue to start, idle worker, p99", "ms", "lower", _both(1.1, 0.79)),
    Row("result-p50", "enqueue to result in the producer, median", "ms", "lower", _both(1.3, 0.81)),
    Row("result-p99", "enqueue to result in the producer, p99", "ms", "lower", _both(2.5, 1.54)),
    Row("due-p99", "tasks due at one moment, lateness p99", "ms", "lower", _both(400, 137)),
    Row("worker-cpu", "worker CPU per no-op task", "us", "lower", _both(45, 21)),
    Row("server-cpu", "server CPU per no-op task", "us", "lower", _both(30, 5.7)),
    Row("commands", "commands per task, those in scripts included", "", "lower"),
    Row("bytes-in", "bytes to the server per task", "B", "lower"),
    Row("bytes-out", "bytes from the server per task", "B", "lower"),
    Row("queued-bytes", "server memory per queued task", "B", "lower"),
    Row("queued-300", "server memory per queued task with a body of 300 B", "B", "lower", (Target(750),)),
    Row("finished-bytes", "server memory per finished task with its result", "B", "lower"),
    Row("rss", "worker RSS, idle", "MB", "lower", (Target(45),)),
    Row("first", "start of the worker to its first task", "s", "lower", (Target(0.35),)),
    Row("ping-5", "`ping`, 5 idle workers", "ms", "lower", (Target(4),)),
    Row("ping-20", "`ping`, 20 idle workers", "ms", "lower", (Target(10),)),
    Row("ping-200", "`ping`, 200 idle workers", "ms", "lower", (Target(80),)),
    Row("ping-sleep", "`ping`, every handler sleeps on its work loop, 5 workers", "ms", "lower", (Target(4),)),
    Row("ping-spin", "`ping`, every handler spins on its work loop, 2 workers", "ms", "lower", (Target(25),)),
    Row("stemctl-ping", "`stemctl ping`, the whole command", "ms", "lower", (Target(400),)),
    Row("watched", "no-op tasks while a dashboard watches", "tasks/s", "higher", (Target(0.85, "unwatched"),)),
    Row(
        "long-rss",
        "RSS of a worker after so many tasks",
        "MB",
        "lower",
        (Target(1.1, "10 000 tasks", f"{MILLION} tasks"),),
    ),
    Row("full-queues", "`queues ls`", "ms", "lower", (Target(1.5, EMPTY, FULL),)),
    Row("full-stats", "`stats`", "ms", "lower", (Target(1.5, EMPTY, FULL),)),
    Row("full-ping", "`ping`", "ms", "lower", (Target(1.5, EMPTY, FULL),)),
    Row("full-snapshot", "a dashboard's snapshot", "ms", "lower", (Target(1.5, EMPTY, FULL),)),
    Row("redis70", "no-op tasks on Debian's Redis 7.0, results stored", "tasks/s", "higher", (Target(0.45, "raw"),)),
)
BY_NAME: Final = {row.name: row for row in ROWS}
