"""The demo's own account of what happened, written by producer and handlers, and judged without asking the server.

Each process appends to a file of its own, `<pid>.ledger`, one `write` per line: a line is there or it is not, also when
its process is killed. A line is `kind TAB task id TAB attempt`. Who writes what:

    acked             producer: `enqueue` returned this id
    withdrawn         operator: the revoke was answered "revoked": it waited, and is final now
    stopping          operator: the revoke was answered "running": marked where it runs
    killed            operator: the process of this number got SIGKILL (the id is the pid)
    left              demo: the process of this number was stopped at the dashboard (the id is the pid)
    replayed          demo: somebody at the dashboard gave this dead letter a new life, which has an end of its own
    started           handler: it begins
    done failed cut   handler: it returned, raised, or was cancelled
    final:succeeded final:failed final:revoked final:expired
                      worker: the broker has recorded this end (a signal that comes after the settle)
    final:retry       worker: the broker has recorded that it runs again

The promises and what breaks them:

* **lost**: a task that was acknowledged but has no end. An end is a recorded one, or a withdrawal; for a task whose
  worker was killed also its handler's `done` (the worker died between the record and its line) or a `stopping`. Lines
  that cannot be true together count here as well, because the account of that task is incomplete: a start on a living
  worker without its `done failed cut`, a recorded success without a `done`, a recorded failure or retry without a
  `failed`.
* **duplicated**: a task with more than one end, one that ran although it was withdrawn before, or one that nobody
  acknowledged.

A task that started again because its worker was killed is neither: at least one start and one recorded end is what Stem
promises. Such starts are counted as `extra_starts`.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

SUFFIX: Final = ".ledger"
_ENDS: Final = ("final:succeeded", "final:failed", "final:revoked", "final:expired")
KINDS: Final = frozenset(
    (
        *(*_ENDS, "final:retry", "acked", "withdrawn", "stopping", "killed", "left", "replayed"),
        *("started", "done", "failed", "cut"),
    )
)


@dataclass(frozen=True, slots=True)
class Line:
    """One entry; `writer` is the pid of the process that made it."""

    writer: int
    kind: str
    task_id: str
    attempt: int = 0


class Ledger:
    """Appends lines for this process. Safe from several threads: each line is one write to an O_APPEND file."""

    def __init__(self, folder: Path) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        self._fd = os.open(folder / f"{os.getpid()}{SUFFIX}", flags, 0o600)

    def write(self, kind: str, task_id: str, attempt: int = 0) -> None:
        os.write(self._fd, f"{kind}\t{task_id}\t{attempt}\n".encode())

    @contextmanager
    def attempt(self, task_id: str, attempt: int) -> Iterator[None]:
        """Write down how one run of a handler began and ended."""
        self.write("started", task_id, attempt)
        try:
            yield
        except Exception:
            self.write("failed", task_id, attempt)
            raise
        except BaseException:  # cancelled: revoked with --terminate, out of time, or the lease is lost
            self.write("cut", task_id, attempt)
            raise
        self.write("done", task_id, attempt)

    def close(self) -> None:
        os.close(self._fd)


def read(folder: Path) -> list[Line]:
    """Return every line of every process, in order per process.

    Raises:
        ValueError: a line that no process could have written.
    """
    lines = []
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        for text in path.read_text().splitlines():
            parts = text.split("\t")
            if len(parts) != 3 or parts[0] not in KINDS or not parts[2].isdigit():
                raise ValueError(f"{path.name}: {text!r} is not a ledger line")
            lines.append(Line(int(path.name.removesuffix(SUFFIX)), parts[0], parts[1], int(parts[2])))
    return lines


@dataclass(slots=True)
class _Account:
    """The lines of one task."""

    lines: list[Line] = field(default_factory=list)

    def count(self, *kinds: str, writers: frozenset[int] | None = None) -> int:
        return sum(line.kind in kinds and (writers is None or line.writer in writers) for line in self.lines)

    def settled(self, killed: frozenset[int]) -> bool:
        """Say whether each of its lives has an end."""
        if self.count(*_ENDS, "withdrawn") > self.count("replayed"):
            return True
        if not self.count("started", writers=killed):
            return False
        return bool(self.count("done", writers=killed) or self.count("stopping"))

    def incomplete(self, killed: frozenset[int]) -> bool:
        """Say whether lines are missing that the others imply."""
        for writer in {line.writer for line in self.lines} - killed:
            mine = frozenset({writer})
            if self.count("started", writers=mine) != self.count("done", "failed", "cut", writers=mine):
                return True
            if self.count("final:succeeded", writers=mine) > self.count("done", writers=mine):
                return True
            if self.count("final:failed", "final:retry", writers=mine) > self.count("failed", writers=mine):
                return True
        return False

    def duplicated(self) -> bool:
        ends = self.count(*_ENDS) + self.count("withdrawn")
        return ends > 1 + self.count("replayed") or not self.count("acked")

    def end(self, killed: frozenset[int]) -> str:
        """Return how it ended: `succeeded dead revoked expired`, or "" for not at all."""
        for kind, name in (("final:succeeded", "succeeded"), ("final:failed", "dead"), ("final:expired", "expired")):
            if self.count(kind):
                return name
        if self.count("final:revoked", "withdrawn"):
            return "revoked"
        if self.count("done", writers=killed):
            return "succeeded"
        return "revoked" if self.settled(killed) else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the ledger says.

    Attributes:
        enqueued: acknowledged tasks; each ends as one of `succeeded dead revoked`, or is `lost`.
        failed: runs of a handler that raised; `retried` of them were run again.
        lost, duplicated: see the module; both must be 0.
        extra_starts: runs beyond the first that no retry explains: their first worker was killed or cut off.
    """

    enqueued: int = 0
    succeeded: int = 0
    failed: int = 0
    retried: int = 0
    revoked: int = 0
    dead: int = 0
    lost: int = 0
    duplicated: int = 0
    extra_starts: int = 0
    killed_workers: int = 0

    @property
    def clean(self) -> bool:
        return not self.lost and not self.duplicated

    def to_plain(self) -> dict[str, int]:
        return asdict(self)


def judge(lines: Iterable[Line]) -> Verdict:
    """Say what became of every task."""
    lines = list(lines)
    accounts, killed = _accounts(lines)
    ends = Counter(account.end(killed) for account in accounts.values())
    return Verdict(
        enqueued=sum(account.count("acked") > 0 for account in accounts.values()),
        succeeded=ends["succeeded"],
        failed=sum(account.count("failed") for account in accounts.values()),
        retried=sum(account.count("final:retry") for account in accounts.values()),
        revoked=ends["revoked"],
        dead=ends["dead"],
        lost=sum(not account.settled(killed) or account.incomplete(killed) for account in accounts.values()),
        duplicated=sum(account.duplicated() for account in accounts.values()),
        extra_starts=sum(
            max(0, account.count("started") - 1 - account.count("final:retry", "replayed"))
            for account in accounts.values()
        ),
        killed_workers=sum(line.kind == "killed" for line in lines),
    )


def at_work(lines: Iterable[Line]) -> Counter[int]:
    """Return how many handlers run now, by the pid of their worker; workers without any are left out."""
    running: Counter[int] = Counter()
    for line in lines:
        if line.kind == "started":
            running[line.writer] += 1
        elif line.kind in ("done", "failed", "cut"):
            running[line.writer] -= 1
    return +running


def open_tasks(lines: Iterable[Line]) -> list[str]:
    """Return the acknowledged tasks that have no end yet, or whose account is not complete yet."""
    accounts, killed = _accounts(lines)
    return [
        task_id
        for task_id, account in accounts.items()
        if account.count("acked") and (not account.settled(killed) or account.incomplete(killed))
    ]


def questionable(lines: Iterable[Line]) -> list[str]:
    """Return the tasks whose account somebody at the dashboard may have changed: open, dead, or ended twice."""
    accounts, killed = _accounts(lines)
    return [
        task_id
        for task_id, account in accounts.items()
        if account.count("final:failed") or account.duplicated() or not account.settled(killed)
    ]


def _accounts(lines: Iterable[Line]) -> tuple[dict[str, _Account], frozenset[int]]:
    accounts: dict[str, _Account] = defaultdict(_Account)
    killed = set()
    for line in lines:
        if line.kind in ("killed", "left"):
            killed.add(int(line.task_id))
        else:
            accounts[line.task_id].lines.append(line)
    return accounts, frozenset(killed)
