"""`python -m tests.simulation --seeds 2000`: play many seeds, or one of them with its trace (`--seed 17 --trace`)."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from tests.simulation.scene import profile_of
from tests.simulation.world import play, simulate


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=2_000, help="how many seeds to play")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--seed", type=int, help="play this one only")
    parser.add_argument("--trace", action="store_true", help="print everything that happened")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes to play them in")
    options = parser.parse_args()
    if options.seed is not None:
        report = simulate(options.seed, profile_of(options.seed))
        if options.trace:
            _say("\n".join(report.trace))
        _say(report.summary)
        return 1 if report.violations else 0
    return _many(range(options.first, options.first + options.seeds), options.jobs)


def _many(seeds: range, jobs: int) -> int:
    began = time.perf_counter()
    counts: Counter[str] = Counter()
    failed, virtual_s, steps = 0, 0.0, 0
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for report in pool.map(play, seeds, chunksize=10):
            counts += report.counts
            virtual_s += report.virtual_s
            steps += report.steps
            if report.violations:
                failed += 1
                _say(report.summary)
    _say(
        f"{len(seeds)} seeds, {failed} with violations; {virtual_s / 3600:.1f} virtual hours, {steps} steps, "
        f"{time.perf_counter() - began:.0f} s"
    )
    _say(", ".join(f"{name} {count}" for name, count in sorted(counts.items())))
    return 1 if failed else 0


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
