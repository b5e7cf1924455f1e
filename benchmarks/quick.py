"""`make bench-quick`: no-op tasks per second of one worker process, results stored; Stem against raw Redis and peers.

The first part of `make bench` with three of the peers, in under three minutes; prints the medians and keeps nothing.
"""

from __future__ import annotations

import argparse
import sys
import time

from benchmarks import contestants, tables
from benchmarks.bench import Bench
from benchmarks.measure import throughput
from benchmarks.results import Result

WHO = ("raw", "stem", "saq", "dramatiq", "celery")
MINUTES = 2.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="how much of each round's tasks to run")
    args = parser.parse_args()
    result = Result("quick")
    there = [each for each in contestants.everybody() if each.name in WHO and each.variant != "default"]
    run = Bench(result, there, time.monotonic() + MINUTES * 60, args.rounds, args.scale)
    run.pace = throughput.pace(run)
    throughput.noop(run)
    print(tables.side_by_side(result, ("noop", "worker-cpu", "server-cpu")))
    for what, why in result.left_out.items():
        print(f"{what} could not be measured: {why}", file=sys.stderr)
    return 0 if result.entry("noop", "stem") else 1


if __name__ == "__main__":
    sys.exit(main())
