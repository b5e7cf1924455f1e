"""A ledger for very many tasks: two short lines per task, judged by counting, in two bytes of memory per task.

Tasks have the ids `c-0`, `c-1`, … so that what was seen of each can be counted in an array. A line is `s NUMBER TOKEN`
when a handler begins and `d NUMBER TOKEN` when it returns, each written in one call to a file opened with O_APPEND.
This module is also the application of the workers that run them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stem.client import Stem
from stem.task import TaskContext
from tests.faults.orphan import end_with_tests

COUNTED_VARIABLE: Final = "FAULTS_COUNTED"
PREFIX: Final = "c-"

_BLOCK: Final = 1 << 20
_MOST: Final = 255

app = Stem.connect()

_fd = -1
if COUNTED_VARIABLE in os.environ:
    end_with_tests()
    _fd = os.open(os.environ[COUNTED_VARIABLE], os.O_WRONLY | os.O_APPEND)


@app.task("fault.counted")
async def counted(context: TaskContext, n: int) -> int:
    """Write down its id and token, not its argument: a task that runs as another one shows."""
    number = context.id.removeprefix(PREFIX)
    os.write(_fd, f"s {number} {context.token}\n".encode())
    os.write(_fd, f"d {number} {context.token}\n".encode())
    return n


@dataclass(slots=True)
class Counts:
    """What the ledger says of `tasks` tasks.

    Attributes:
        never: not started. unfinished: started, and no handler returned.
        extra_starts, extra_ends: beyond one of each task.
        strangers: lines of no task of these. refenced: starts under another token than 1.
        examples: numbers of tasks that are not as they should be, the first few.
    """

    tasks: int
    never: int = 0
    unfinished: int = 0
    extra_starts: int = 0
    extra_ends: int = 0
    strangers: int = 0
    refenced: int = 0
    examples: tuple[int, ...] = ()

    @property
    def exact(self) -> bool:
        """Whether each task was started once, under the token 1, and returned once."""
        return not (
            self.never or self.unfinished or self.extra_starts or self.extra_ends or self.strangers or self.refenced
        )


def count(path: Path, tasks: int) -> Counts:
    """Read the ledger once, from its beginning to its end, and count.

    Raises:
        ValueError, KeyError: a line that no handler could have written.
    """
    starts, ends = bytearray(tasks), bytearray(tasks)
    found = Counts(tasks)
    with path.open("rb", _BLOCK) as file:
        for line in file:
            kind, number, token = line.split()
            n = int(number)
            if not 0 <= n < tasks or not line.endswith(b"\n"):
                found.strangers += 1
                continue
            seen = {b"s": starts, b"d": ends}[kind]
            found.extra_starts += kind == b"s" and seen[n] > 0
            found.extra_ends += kind == b"d" and seen[n] > 0
            found.refenced += kind == b"s" and token != b"1"
            seen[n] = min(seen[n] + 1, _MOST)
    found.never = starts.count(0)
    found.unfinished = sum(1 for start, end in zip(starts, ends, strict=True) if start and not end)
    if not found.exact:
        odd = (n for n in range(tasks) if starts[n] != 1 or ends[n] != 1)
        found.examples = tuple(n for n, _ in zip(odd, range(10), strict=False))
    return found


def ended(path: Path, read_to: int) -> tuple[int, int]:
    """Count the ends written after byte `read_to` of the ledger; return them and where to go on."""
    with path.open("rb") as file:
        file.seek(read_to)
        data = file.read()
    data = data[: data.rfind(b"\n") + 1]
    return data.count(b"d "), read_to + len(data)
