"""How fast a producer gets rid of tasks."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from benchmarks.bench import Bench
from benchmarks.contestants import HOME, Contestant
from benchmarks.rounds import round_of


def one(bench: Bench) -> None:
    def measure(each: Contestant) -> Mapping[str, float]:
        return {"enqueue-one": rate(bench, each, "one", 10_000 if each.name == "raw" else 4_000)}

    blocking = [name for name, home in HOME.items() if home == "sync"]
    bench.interleave("enqueue-one", [each for each in bench.best() if each.name not in blocking], measure)

    def measure_blocking(each: Contestant) -> Mapping[str, float]:
        return {"enqueue-sync": rate(bench, each, "one", 4_000)}

    peers = [each for each in bench.best() if each.name in blocking]
    bench.interleave("enqueue-sync", [*sync_contestants(), *peers], measure_blocking)


def batch(bench: Bench) -> None:
    def measure(each: Contestant) -> Mapping[str, float]:
        return {"enqueue-batch": rate(bench, each, "batch", 50_000 if each.name in ("raw", "stem") else 5_000)}

    stem = next(each for each in bench.ours() if each.label == "stem")
    concurrent = Contestant(name="stem", variant="concurrent", produce=stem.produce, work=(), tasks=0)
    bench.interleave("enqueue-batch", [*bench.best(), concurrent], measure)


def sync_contestants() -> list[Contestant]:
    """Return the blocking XADD and SyncStem."""
    return [
        Contestant(name="raw", variant="", produce=[sys.executable, "-m", "benchmarks.raw_sync"], work=(), tasks=0),
        Contestant(name="stem", variant="", produce=[sys.executable, "-m", "benchmarks.stem_sync"], work=(), tasks=0),
    ]


def rate(bench: Bench, each: Contestant, verb: str, count: int) -> float:
    count = bench.count(count)
    with round_of(each) as here:
        seconds: float = here.produce(verb, count)["seconds"]
        return count / seconds
