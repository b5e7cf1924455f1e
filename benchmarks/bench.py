"""A run of the benchmark: interleaved rounds, a time budget, and what failed on the way."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from benchmarks.contestants import ROOT, Contestant
from benchmarks.results import Result
from benchmarks.rounds import say
from benchmarks.servers import running
from stem.worker.host import cores


@dataclass
class Bench:
    """What is measured with, and what came of it.

    Attributes:
        deadline_s: monotonic; after it a row gets no further round, so that each row has at least one.
        scale: how much of each round's tasks to run, as asked for.
        pace: the same, by the machine: a slow or busy one runs fewer, so that a round takes as long everywhere.
    """

    result: Result
    contestants: Sequence[Contestant]
    deadline_s: float
    rounds: int = 3
    scale: float = 1.0
    pace: float = 1.0
    failed: set[tuple[str, str]] = field(default_factory=set)

    def ours(self) -> list[Contestant]:
        return [each for each in self.contestants if each.name in ("raw", "stem")]

    def best(self) -> list[Contestant]:
        """Return raw and the tuned variant of everybody."""
        return [each for each in self.contestants if each.variant != "default"]

    def count(self, tasks: int, *, whole: bool = False) -> int:
        """Return how many of them to run: as many as the machine's pace allows, or whatever it takes."""
        return max(50, int(tasks * self.scale * (1.0 if whole else self.pace)) // 50 * 50)

    def interleave(
        self,
        what: str,
        contestants: Sequence[Contestant],
        measure: Callable[[Contestant], Mapping[str, float]],
        *,
        rounds: int | None = None,
    ) -> None:
        """Run all in turn, round by round, so that a disturbance hits everybody alike."""
        for number in range(self.rounds if rounds is None else rounds):
            if number and time.monotonic() > self.deadline_s:
                say(f"{what}: out of time after {number} rounds")
                return
            for each in contestants:
                if (what, each.label) in self.failed:
                    continue
                try:
                    found = measure(each)
                except (RuntimeError, ValueError, OSError) as error:
                    self.failed.add((what, each.label))
                    self.result.left_out[f"{each.label}: {what}"] = str(error)[:300]
                    say(f"{what} {each.label}: {error}")
                    continue
                self.result.measured |= {each.name, f"{each.label}: {what}"}
                for row, value in found.items():
                    self.result.add(row, label=each.label, name=each.name, variant=each.variant, value=value)
                shown = ", ".join(f"{row} {value:,.5g}" for row, value in found.items())
                say(f"{what} {number + 1} {each.label}: {shown}")


def describe(result: Result) -> None:
    """Note the machine, the commit and our own versions."""
    done = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    result.commit = done.stdout.strip()
    result.at = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    with running() as server:
        info = server.client.info("server")
        name = info.get("server_name", "redis")
        kind = f"{name} {info.get(f'{name}_version', info['redis_version'])}"
    result.machine = {
        "cores": str(cores()),
        "processor": _processor(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "server": kind,
        "load before": _load(),
    }
    result.versions = {name: version(name) for name in ("redis", "hiredis", "uvloop")}


def finish(result: Result, began_s: float) -> None:
    result.elapsed_s = round(time.monotonic() - began_s, 1)
    result.machine["load after"] = _load()


def _load() -> str:
    return " ".join(f"{each:.2f}" for each in os.getloadavg())


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
