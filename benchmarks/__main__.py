"""`make bench`: every row of the table, Stem beside raw Redis and nine other queues, in interleaved rounds of one run.

Writes benchmarks/results/bench.json, the picture and the tables of docs/performance.md. `ONLY="noop nap"` runs some
parts and leaves the other rows of the file as they are; `--peers ""` runs without the peers.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from benchmarks import bench, contestants, page, results
from benchmarks.bench import Bench
from benchmarks.measure import control, latency, memory, million, producing, throughput
from benchmarks.results import Result
from benchmarks.rounds import say
from tests.servers import redis_server_path

PARTS: Final[dict[str, Callable[[Bench], None]]] = {
    "noop": throughput.noop,
    "latency": latency.idle,
    "enqueue": producing.one,
    "batch": producing.batch,
    "start": latency.start,
    "ignored": throughput.ignored,
    "two": throughput.two,
    "nap": throughput.nap,
    "due": latency.due,
    "watched": throughput.watched,
    "busy": control.busy,
    "command": control.command,
    "memory": memory.queued,
    "million": million.run,
    "redis70": throughput.redis70,
    "ping": control.ping,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="NAME", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--peers", default=" ".join(contestants.PEERS), help="which take part")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=24.0, help="after which each part has one round only")
    parser.add_argument("--scale", type=float, default=1.0, help="how much of each round's tasks to run; to try it out")
    parser.add_argument("--out", type=Path, default=page.BENCH, help="the result file")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, _stop)
    began_s = time.monotonic()
    result = Result("bench")
    bench.describe(result)
    installed, missing = contestants.versions()
    asked = args.peers.split()
    result.versions |= {name: number for name, number in installed.items() if name in asked}
    result.left_out |= {name: reason for name, reason in missing.items() if name in asked}
    everybody = [each for each in contestants.everybody() if each.name in ("raw", "stem", *asked)]
    there = [each for each in everybody if each.name not in missing]
    result.tuned = {each.name: each.tuned for each in there if each.tuned}
    run = Bench(result, there, began_s + args.minutes * 60, args.rounds, args.scale)
    run.pace = throughput.pace(run)
    result.machine["pace"] = f"{run.pace:.2f} of the tasks of a round on an idle machine"
    for name in args.only or PARTS:
        if name == "redis70" and redis_server_path() is None:
            result.left_out["redis70"] = "redis-server is not installed"
            continue
        say(f"--- {name}, {time.monotonic() - began_s:.0f} s")
        PARTS[name](run)
        result.measured.add(name)
    bench.finish(result, began_s)
    if args.only and args.out.exists():
        result = results.merged(results.load(args.out), result, parts=args.only)
    results.save(result, args.out)
    if args.out == page.BENCH:
        page.write()
    print(page.summary(result))
    return 0


def _stop(*_: Any) -> None:
    """End as on Ctrl-C, so that what was started is ended too."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
