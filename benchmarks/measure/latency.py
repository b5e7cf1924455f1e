"""How long a task takes to start and to answer where nothing is in its way, and how late many at once are.

A goal holds for its number of tasks: raw and Stem get all of them. Peers get what the machine's pace allows, for some
take half a minute for it; then the row says so.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from benchmarks.bench import Bench
from benchmarks.contestants import Contestant
from benchmarks.figures import percentile, shown
from benchmarks.records import Record
from benchmarks.results import OWN
from benchmarks.rounds import round_of

SAMPLES = 200
DUE = 10_000


def _count(bench: Bench, one: Contestant, tasks: int) -> int:
    return bench.count(tasks, whole=one.name in OWN)


def _note(bench: Bench, rows: Sequence[str], tasks: int, what: str) -> None:
    """Let the rows say how many there were."""
    ours, theirs = bench.count(tasks, whole=True), bench.count(tasks)
    said = f"{shown(ours)} {what}" + (f", {shown(theirs)} of peers" if theirs != ours else "")
    bench.result.notes |= dict.fromkeys(rows, said)


def idle(bench: Bench) -> None:
    """Enqueue to start, then enqueue to result, with one idle worker."""
    _note(bench, ("start-p50", "start-p99", "result-p50", "result-p99"), SAMPLES, "samples a round")
    bench.interleave("latency", bench.best(), lambda one: _idle(bench, one), rounds=2)


def _idle(bench: Bench, one: Contestant) -> Mapping[str, float]:
    count = _count(bench, one, SAMPLES)
    with round_of(one, step=1) as here:
        here.produce("fill", "mark", 1)  # the worker is there when this one has run
        here.start(one.work)
        here.await_runs(1)
        here.produce("idle", count)
        late = _late_ms(here.await_runs(1 + count)[1:])
        took: list[float] = here.produce("result", count)["ms"]
        return {
            "start-p50": percentile(late, 0.5),
            "start-p99": percentile(late, 0.99),
            "result-p50": percentile(took, 0.5),
            "result-p99": percentile(took, 0.99),
        }


def due(bench: Bench) -> None:
    """Many tasks due at one moment. Peers once."""
    _note(bench, ["due-p99"], DUE, "tasks")
    ours = [each for each in bench.best() if each.name in OWN]
    bench.interleave(
        "due", [*ours, *(each for each in bench.best() if each not in ours)], lambda o: _due(bench, o), rounds=1
    )
    bench.interleave("due", ours, lambda one: _due(bench, one), rounds=2)


def _due(bench: Bench, one: Contestant) -> Mapping[str, float]:
    count = _count(bench, one, DUE)
    with round_of(one, step=1) as here:
        here.start(*(one.due or [one.work]))
        here.produce("fill", "mark", 1)
        here.await_runs(1)
        # First a few, to see how long enqueueing all of them takes: they must all be there before they are due.
        at_s = time.time() + 1.0
        begin = time.monotonic()
        here.produce("due", 200, at_s)
        lead_s = 2.0 + 1.5 * (time.monotonic() - begin) * count / 1000
        here.await_runs(201)
        at_s = round(time.time() + lead_s)
        here.produce("due", count, at_s)
        if time.time() > at_s:
            raise ValueError("enqueueing them took longer than foreseen")
        late = _late_ms(here.await_runs(201 + count, limit_s=lead_s + 40)[201:])
        return {"due-p99": percentile(late, 0.99)}


def _late_ms(found: list[Record]) -> list[float]:
    return [each.value_ns / 1e6 for each in found]


def start(bench: Bench) -> None:
    """The worker's start to its first task, and what it weighs when idle."""
    bench.interleave("start", bench.best(), _start, rounds=3)


def _start(one: Contestant) -> Mapping[str, float]:
    with round_of(one, step=1) as here:
        here.produce("fill", "mark", 1)
        begin = time.monotonic_ns()
        here.start(one.work)
        found = here.await_runs(1, poll_s=0.005)
        time.sleep(1.0)
        return {"first": (found[0].at_ns - begin) / 1e9, "rss": here.rss_mb()}
