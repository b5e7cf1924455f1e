"""How many tasks a worker runs, what each costs worker and server, and how much memory each takes."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace

from benchmarks import records
from benchmarks.bench import Bench
from benchmarks.contestants import ROOT, Contestant
from benchmarks.rounds import Round, RoundError, round_of
from tests.servers import Kind

WARM_UP = 0.1
RAW_PER_S = 40_000


def noop(bench: Bench) -> None:
    """No-op tasks with their costs: everybody, default and tuned."""
    bench.interleave("noop", bench.contestants, lambda one: drain(bench, one))


def ignored(bench: Bench) -> None:
    def measure(one: Contestant) -> Mapping[str, float]:
        return {"ignored": drain(bench, one, results=False)["noop"]}

    bench.interleave("ignored", bench.best(), measure, rounds=2)


def two(bench: Bench) -> None:
    def measure(one: Contestant) -> Mapping[str, float]:
        return {"two": drain(bench, one, processes=2)["noop"]}

    bench.interleave("two", bench.best(), measure, rounds=2)


def nap(bench: Bench) -> None:
    def measure(one: Contestant) -> Mapping[str, float]:
        return {"nap": drain(bench, one, task="nap", tasks=min(one.tasks, 15_000))["noop"]}

    bench.interleave("nap", bench.best(), measure, rounds=2)


def redis70(bench: Bench) -> None:
    def measure(one: Contestant) -> Mapping[str, float]:
        return {"redis70": drain(bench, one, kind="redis")["noop"]}

    bench.interleave("redis70", [each for each in bench.ours() if each.variant != "default"], measure, rounds=2)


def watched(bench: Bench) -> None:
    """The same with the dashboard open in a terminal, and without."""
    stem = next(each for each in bench.ours() if each.label == "stem")

    def measure(one: Contestant) -> Mapping[str, float]:
        return {"watched": drain(bench, one, tasks=2 * one.tasks, watching=one is stem)["noop"]}

    # More rounds than of others: the two are near each other.
    bench.interleave(
        "watched", [replace(stem, name="unwatched", variant=""), stem], measure, rounds=max(bench.rounds, 5)
    )


def pace(bench: Bench) -> float:
    """Return how fast this machine is now beside the one that the rounds are cut for, at most 1."""
    raw = next(each for each in bench.ours() if each.name == "raw")
    return max(0.05, min(1.0, drain(bench, raw, tasks=10_000)["noop"] / RAW_PER_S))


def drain(
    bench: Bench,
    one: Contestant,
    *,
    task: str = "noop",
    tasks: int = 0,
    results: bool = True,
    processes: int = 1,
    kind: Kind = "valkey",
    watching: bool = False,
) -> dict[str, float]:
    """Enqueue first, then start the worker and measure until all have run."""
    total = bench.count((tasks or one.tasks) * processes)
    warm_up = max(one.step, int(total * WARM_UP) // one.step * one.step)
    with round_of(one, results=results, kind=kind) as here:
        before = here.server.usage()
        here.produce("fill", task, total + warm_up)
        filled = here.server.usage()
        line = one.nap if task == "nap" and one.nap else one.work
        lines = [line] if processes == 1 else ([one.two] if one.two else [line] * processes)
        with dashboard(here) if watching else nullcontext():
            here.start(*lines)
            # What does not fill a step of its own is never written.
            found = here.await_runs(total + warm_up - (processes - 1) * one.step)
        after = here.server.usage()
        span = records.window(found, warm_up=warm_up, processes=processes)
        used, count = after.since(filled), total + warm_up
        costs = {
            "noop": span.per_s,
            "server-cpu": used.cpu_s / count * 1e6,
            "commands": used.commands / count,
            "bytes-in": used.bytes_in / count,
            "bytes-out": used.bytes_out / count,
            "queued-bytes": (filled.memory_bytes - before.memory_bytes) / count,
            "finished-bytes": (after.memory_bytes - before.memory_bytes) / count,
        }
        return costs | ({"worker-cpu": span.cpu_us} if span.cpu_s else {})


@contextmanager
def dashboard(here: Round) -> Iterator[None]:
    """Run `stem-tui` in a terminal of its own that somebody reads."""
    master, slave = pty.openpty()
    reader = threading.Thread(target=_read, args=(master,), daemon=True)
    reader.start()
    program = subprocess.Popen(
        [sys.executable, "-m", "stem_tui"],
        env=here.env | {"TERM": "xterm-256color", "COLUMNS": "140", "LINES": "40"},
        cwd=ROOT,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)
    try:
        await_watcher(here)
        yield
    finally:
        program.terminate()
        try:
            program.wait(5)
        except subprocess.TimeoutExpired:
            program.kill()
            program.wait()
        reader.join(5)
        os.close(master)


def await_watcher(here: Round) -> None:
    """Wait until the dashboard holds its watch lease."""
    deadline = time.monotonic() + 20
    while not here.server.client.zcard("{stem}:watch"):
        if time.monotonic() > deadline:
            raise RoundError("the dashboard did not begin to watch within 20 s")
        time.sleep(0.02)


def _read(master: int) -> None:
    with suppress(OSError):
        while os.read(master, 65_536):
            pass
