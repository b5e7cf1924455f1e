"""What happened, written by handlers and producers themselves, and judged without asking the server under test.

A line is `kind id attempt token worker pid t`, parted by tabs and written in one call to a file opened with O_APPEND:
it is there or it is not, also when its writer is killed. `t` is the monotonic clock in nanoseconds, which all
processes of one machine share on Linux.

    tried             a producer is about to enqueue this id; unknown: it never learned whether it did
    acked             the producer has the id
    start             a handler begins; done, failed, cut: it returned, raised, was cancelled
    final:<state>     a worker knows that the broker recorded this end; retry: that it recorded another attempt
"""

from __future__ import annotations

import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.waiting import eventually

if TYPE_CHECKING:  # the worker's process imports this module before anything else of its own
    from stem.task import TaskContext

LEDGER_VARIABLE: Final = "FAULTS_LEDGER"
PARENT_VARIABLE: Final = "FAULTS_PARENT"
ENDS: Final = ("done", "failed", "cut")
KINDS: Final = frozenset(
    (
        "tried",
        "unknown",
        "acked",
        "start",
        "retry",
        "final:succeeded",
        "final:failed",
        "final:revoked",
        "final:expired",
        *ENDS,
    )
)


@dataclass(frozen=True, slots=True)
class Line:
    """One entry. `at_ns` is `time.monotonic_ns()`."""

    kind: str
    id: str
    attempt: int
    token: int
    worker: str
    pid: int
    at_ns: int

    @property
    def worker_pid(self) -> int:
        """The process of the worker, by its id (host-pid-random); this line's own where no worker is named."""
        parts = self.worker.rsplit("-", 2)
        return int(parts[1]) if len(parts) == 3 and parts[1].isdecimal() else self.pid


@dataclass(slots=True)
class Disturbance:
    """A fault: whoever was at work between `begin_ns` and `end_ns` may have lost what it held.

    Attributes:
        pids: whose work; None for everybody's.
    """

    begin_ns: int
    end_ns: int
    pids: frozenset[int] | None = None


class Ledger:
    """One file that many processes append to and the test reads."""

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._lines: list[Line] = []
        self._read_to = 0

    def write(self, kind: str, task_id: str, context: TaskContext | None = None) -> None:
        """Append one line."""
        attempt, token, worker = (0, 0, "-") if context is None else (context.attempt, context.token, context.worker)
        row = (kind, task_id, attempt, token, worker, os.getpid(), time.monotonic_ns())
        os.write(self._fd, ("\t".join(map(str, row)) + "\n").encode())

    def close(self) -> None:
        os.close(self._fd)

    def read(self) -> Account:
        """Return what is written so far.

        Raises:
            ValueError: a line that no process could have written.
        """
        with self._path.open("rb") as file:
            file.seek(self._read_to)
            data = file.read()
        # A reader may see the first part of a line that is being written: that one is for the next time.
        data = data[: data.rfind(b"\n") + 1]
        self._read_to += len(data)
        for text in data.decode().splitlines():
            parts = text.split("\t")
            if len(parts) != 7 or parts[0] not in KINDS:
                raise ValueError(f"{text!r} is not a ledger line")
            kind, task_id, attempt, token, worker, pid, at_ns = parts
            self._lines.append(Line(kind, task_id, int(attempt), int(token), worker, int(pid), int(at_ns)))
        return Account(self._lines)

    async def wait_for(
        self, kind: str, task_ids: str | Sequence[str], *, timeout: float = 10.0, count: int = 1
    ) -> list[Line]:
        """Wait until each of these tasks has `count` lines of this kind; return the lines of this kind."""
        wanted = {task_ids} if isinstance(task_ids, str) else set(task_ids)

        def there() -> list[Line]:
            found = [line for line in self.read().lines if line.kind == kind and line.id in wanted]
            seen = Counter(line.id for line in found)
            return found if all(seen[task_id] >= count for task_id in wanted) else []

        return await eventually(there, timeout, what=f"{count} x {kind} of {len(wanted)} tasks in the ledger")


class Account:
    """Lines, and what they say together."""

    def __init__(self, lines: Iterable[Line]) -> None:
        self.lines: Final = sorted(lines, key=lambda line: line.at_ns)

    def of(self, task_id: str, *kinds: str) -> list[Line]:
        """Return the lines of one task, all kinds or these, in the order of time."""
        return [line for line in self.lines if line.id == task_id and (not kinds or line.kind in kinds)]

    def starts(self, task_id: str) -> list[Line]:
        return self.of(task_id, "start")

    def ids(self, *kinds: str) -> set[str]:
        return {line.id for line in self.lines if line.kind in kinds}

    def between(self, begin_ns: int, end_ns: int, kind: str = "start") -> list[Line]:
        """Return the lines of one kind that were written in a stretch of time."""
        return [line for line in self.lines if line.kind == kind and begin_ns < line.at_ns < end_ns]

    def lost(self) -> set[str]:
        """Return the acknowledged tasks that no worker ever finished (I1)."""
        return self.ids("acked") - self.ids("done", "final:succeeded", "final:failed", "final:revoked", "final:expired")

    def phantoms(self) -> set[str]:
        """Return the started tasks that no producer was told of (I2); an enqueue of unknown outcome may be one."""
        return self.ids("start") - self.ids("acked", "tried")

    def finished_twice(self) -> dict[str, int]:
        """Return the tasks of which more than one end was recorded (I3)."""
        ends = Counter(line.id for line in self.lines if line.kind.startswith("final:"))
        return {task_id: count for task_id, count in ends.items() if count > 1}

    def done_twice(self) -> dict[str, int]:
        """Return the tasks whose handler returned more than once."""
        ends = Counter(line.id for line in self.lines if line.kind == "done")
        return {task_id: count for task_id, count in ends.items() if count > 1}

    def started_twice(self) -> dict[str, int]:
        """Return the tasks with more starts than one and their recorded retries explain (I4)."""
        starts = Counter(line.id for line in self.lines if line.kind == "start")
        retries = Counter(line.id for line in self.lines if line.kind == "retry")
        return {task_id: n for task_id, n in starts.items() if n > 1 + retries[task_id]}

    def unexplained_starts(self, disturbances: Sequence[Disturbance]) -> dict[str, int]:
        """Return the tasks with more starts than one, their retries and the faults that met their runs allow (I4).

        A run was interrupted when a fault met its process after the run's start and before that process knew that the
        broker had recorded the run's end.
        """
        by_id: dict[str, list[Line]] = defaultdict(list)
        for line in self.lines:
            by_id[line.id].append(line)
        found = {}
        for task_id in self.started_twice():
            lines = by_id[task_id]
            starts = [line for line in lines if line.kind == "start"]
            recorded = [line for line in lines if line.kind == "retry" or line.kind.startswith("final:")]
            interrupted = 0
            for run in starts:
                # Of a run in a child process the worker is the one that knows; both may be met by a fault.
                pids = {run.pid, run.worker_pid}
                known = min((r.at_ns for r in recorded if r.pid in pids and r.at_ns >= run.at_ns), default=2**63)
                interrupted += any(
                    (fault.pids is None or not pids.isdisjoint(fault.pids))
                    and fault.begin_ns <= known
                    and run.at_ns <= fault.end_ns
                    for fault in disturbances
                )
            retries = sum(line.kind == "retry" for line in lines)
            unexplained = len(starts) - 1 - retries - interrupted
            if unexplained > 0:
                found[task_id] = unexplained
        return found

    def overlaps(self) -> dict[str, int]:
        """Return the tasks of which two runs with the same token were under way, or began with the same one (I5)."""
        tokens = Counter((line.id, line.token) for line in self.lines if line.kind == "start")
        return {task_id: token for (task_id, token), count in tokens.items() if count > 1}

    def bad_tokens(self) -> dict[str, list[int]]:
        """Return the tasks whose tokens do not grow with each start (I5)."""
        tokens: dict[str, list[int]] = defaultdict(list)
        for line in self.lines:
            if line.kind == "start":
                tokens[line.id].append(line.token)
        return {task_id: run for task_id, run in tokens.items() if run != sorted(set(run))}

    def check(self, *, started_once: bool = True) -> None:
        """Assert what holds of every run, whatever happened to workers and servers (I1 to I5)."""
        assert self.lost() == set()
        assert self.phantoms() == set()
        assert self.finished_twice() == {}
        assert self.bad_tokens() == {}
        if started_once:
            assert self.started_twice() == {}
