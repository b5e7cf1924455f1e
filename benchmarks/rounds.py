"""One round of one contestant: fill, run a worker, read the stopwatch; and nothing of it left afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks import records
from benchmarks.contestants import ROOT, Contestant
from benchmarks.records import Record
from benchmarks.servers import Server, running
from tests.servers import Kind

LIMIT_S: Final = 90.0
"""For one producer or one worker; what takes longer is named and left out."""
STOP_S: Final = 5.0
MARKER: Final = "BENCH_RUN"


class RoundError(RuntimeError):
    """A contestant did not do what was asked of it; the run goes on without it."""


@dataclass
class Round:
    """A server of its own, and what is started against it."""

    contestant: Contestant
    server: Server
    folder: Path
    env: dict[str, str]
    marker: str
    programs: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def report(self) -> Path:
        return self.folder / "report"

    def produce(self, *words: str | int | float, limit_s: float = LIMIT_S) -> dict[str, Any]:
        """Run the producer and return what it said."""
        line = [*self.contestant.produce, *(str(word) for word in words)]
        try:
            done = subprocess.run(line, env=self.env, cwd=ROOT, capture_output=True, text=True, timeout=limit_s)
        except subprocess.TimeoutExpired:
            raise RoundError(f"{words[0]} took longer than {limit_s:.0f} s") from None
        if done.returncode:
            raise RoundError(f"the producer ended with {done.returncode}: {done.stderr.strip()[-300:]}")
        said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1]) if done.stdout.strip() else {}
        return said

    def start(self, *lines: Sequence[str], **env: str) -> None:
        """Start programs beside each other."""
        for line in lines:
            with (self.folder / "err").open("ab") as errors:
                program = subprocess.Popen(
                    line,
                    env=self.env | env,
                    cwd=ROOT,
                    start_new_session=True,
                    stdin=subprocess.DEVNULL,
                    stdout=errors,
                    stderr=errors,
                )
            self.programs.append(program)

    def records(self) -> list[Record]:
        return records.parse(self.report.read_bytes()) if self.report.exists() else []

    def await_runs(self, count: int, *, limit_s: float = LIMIT_S, poll_s: float = 0.02) -> list[Record]:
        """Return the records once so many runs are in them."""
        deadline, least = time.monotonic() + limit_s, -1
        while True:
            size = self.report.stat().st_size if self.report.exists() else 0
            if size != least and (done := records.total(found := self.records())) >= count:
                return found
            least = size
            if time.monotonic() > deadline:
                done = records.total(self.records())
                raise RoundError(f"{done} of {count} tasks ran within {limit_s:.0f} s{self.complaint()}")
            for program in self.programs:
                if program.poll() not in (None, 0):
                    raise RoundError(f"a worker ended with {program.returncode}{self.complaint()}")
            time.sleep(poll_s)

    def complaint(self) -> str:
        path = self.folder / "err"
        said = path.read_text("utf-8", "replace").strip() if path.exists() else ""
        return f": {said[-300:]}" if said else ""

    def pids(self) -> list[int]:
        """Return every process of this round that lives."""
        wanted = f"{MARKER}={self.marker}".encode()
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if wanted in path.read_bytes().split(b"\0"):
                    found.append(int(path.parent.name))
        return found

    def rss_mb(self) -> float:
        """Return the resident memory of all of them."""
        total = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        return total / 1e6

    def stop(self) -> None:
        """End every program, also those that a program started."""
        for program in self.programs:
            if program.poll() is None:
                program.terminate()
        deadline = time.monotonic() + STOP_S
        for program in self.programs:
            with contextlib.suppress(subprocess.TimeoutExpired):
                program.wait(max(0.0, deadline - time.monotonic()))
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for program in self.programs:
            program.wait(STOP_S)
        self.programs.clear()


@contextmanager
def round_of(
    contestant: Contestant,
    *,
    results: bool = True,
    step: int = 0,
    kind: Kind = "valkey",
    env: dict[str, str] | None = None,
) -> Iterator[Round]:
    """Open a round on a fresh server; whatever it started is ended with it."""
    marker = secrets.token_hex(8)
    with running(kind) as server, tempfile.TemporaryDirectory(prefix="stem-bench-") as folder:
        variables = os.environ | {
            "BENCH_URL": server.url,
            "BENCH_VARIANT": contestant.variant,
            "BENCH_RESULTS": "1" if results else "0",
            "BENCH_STEP": str(step or contestant.step),
            "BENCH_REPORT": str(Path(folder) / "report"),
            "PYTHONPATH": str(ROOT),
            "STEM_BROKER_URL": server.url,
            "RQ_REDIS_URL": server.url,
            MARKER: marker,
        }
        variables |= contestant.env | (env or {})
        one = Round(contestant, server, Path(folder), variables, marker)
        try:
            yield one
        finally:
            one.stop()


def say(text: str) -> None:
    """Tell whoever waits how far it is."""
    print(text, file=sys.stderr, flush=True)
