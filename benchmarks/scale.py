"""`make bench-scale`: how Stem's figures change with the size of a batch, of a payload, of a backlog, and of a fleet.

Writes benchmarks/results/scale.json, the picture and the tables of docs/performance.md. `ONLY="backlog queues"` runs
some curves and leaves the others of the file as they are.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import string
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks import bench, contestants, figures, page, records, results, tables
from benchmarks.bench import Bench
from benchmarks.contestants import Contestant
from benchmarks.measure import throughput
from benchmarks.measure.control import pings, stem_worker
from benchmarks.results import Result
from benchmarks.rounds import Round, RoundError, round_of, say
from stem import Stem

LIMIT_S: Final = 240.0
AT_ONCE: Final = 500


@dataclass
class Curve:
    """One curve in the making: several rounds per point, of which the median counts."""

    name: str
    title: str
    x_label: str
    found: dict[str, dict[float, list[float]]] = field(default_factory=dict)

    def add(self, x: float, **values: float) -> None:
        for series, value in values.items():
            name = series.replace("_", " ")
            self.found.setdefault(name, {}).setdefault(x, []).append(value)
        say(f"{self.name} {x:,.0f}: " + ", ".join(f"{name} {value:,.5g}" for name, value in values.items()))

    def plain(self) -> dict[str, Any]:
        series = {
            name: [[x, figures.rounded(figures.median(values))] for x, values in sorted(points.items())]
            for name, points in self.found.items()
        }
        return {"name": self.name, "title": self.title, "x_label": self.x_label, "series": series}


@dataclass(frozen=True)
class Run:
    """How much of everything: `scale` below 1 is for trying it out, `pace` below 1 for a slow or busy machine."""

    stem: Contestant
    rounds: int
    scale: float
    pace: float

    def count(self, tasks: float) -> int:
        return max(100, int(tasks * self.scale * self.pace) // 50 * 50)

    def sizes(self, *sizes: int) -> list[int]:
        """Return the sizes; of the large ones fewer when scaled down."""
        return [each for each in sizes if self.scale >= 1 or each <= max(sizes) * self.scale or each == sizes[0]]


def batch(run: Run) -> Curve:
    curve = Curve("batch", "Enqueue, by tasks per `enqueue_many`", "tasks per batch")

    async def enqueue(url: str, size: int) -> float:
        app = Stem.connect(url)
        requests = [("noop", {"n": n}) for n in range(size)]
        await app.enqueue_many(requests)
        done, begin, span_s = 0, time.perf_counter(), 1.5 * min(1.0, run.scale * 5)
        while (took := time.perf_counter() - begin) < span_s:
            await app.enqueue_many(requests)
            done += size
        await app.close()
        return done / took

    for _ in range(run.rounds):
        for size in run.sizes(1, 2, 5, 10, 50, 100, 500, 2000):
            with round_of(run.stem) as here:
                curve.add(size, enqueued_per_s=asyncio.run(enqueue(here.server.url, size)))
    return curve


def concurrency(run: Run) -> Curve:
    curve = Curve("concurrency", "One worker process, by `--concurrency`", "concurrency")
    for _ in range(run.rounds):
        for size in run.sizes(1, 3, 10, 30, 100, 300, 1000):
            noops = drain(run, run.count(min(40_000, 6_000 + 1_500 * size)), "--concurrency", str(size))
            naps = drain(run, run.count(min(15_000, 150 * size)), "--concurrency", str(size), task="nap")
            curve.add(size, noop_tasks_per_s=noops.per_s, ten_ms_tasks_per_s=naps.per_s)
    return curve


def payload(run: Run) -> Curve:
    curve = Curve("payload", "By the size of a task's argument", "bytes")
    letters = string.ascii_letters + string.digits

    async def fill(url: str, size: int, count: int) -> float:
        app = Stem.connect(url)
        text = "".join(random.choices(letters, k=size))
        at_once = max(1, min(AT_ONCE, 4_000_000 // size))
        begin = time.perf_counter()
        for first in range(0, count, at_once):
            await app.enqueue_many([("carry", {"payload": text})] * min(at_once, count - first))
        took = time.perf_counter() - begin
        await app.close()
        return count / took

    for _ in range(run.rounds):
        for size in (100, 1_000, 4_000, 16_000, 64_000, 256_000):
            count = run.count(min(20_000, 250_000_000 // size))
            with round_of(run.stem, step=10) as here:
                enqueued = asyncio.run(fill(here.server.url, size, count))
                here.start(stem_worker("--concurrency", "100"))
                span = records.window(here.await_runs(count // 10 * 10), warm_up=count // 100 * 10)
                curve.add(size, enqueued_per_s=enqueued, run_per_s=span.per_s)
    return curve


def backlog(run: Run) -> Curve:
    """The cost of a task must not grow with what waits behind it."""
    curve = Curve("backlog", "One worker process, by tasks that wait", "tasks queued")
    slice_of = run.count(30_000)
    with round_of(run.stem) as here:
        queued = ran = 0
        for size in (1_000, 10_000, 100_000, 300_000, 1_000_000):
            wanted = int(size * run.scale) + slice_of
            begin = time.perf_counter()
            here.produce("fill", "noop", wanted - queued, limit_s=LIMIT_S)
            enqueued = (wanted - queued) / (time.perf_counter() - begin)
            before = here.server.usage()
            here.start(stem_worker("--concurrency", "100"))
            found = here.await_runs(ran + slice_of, limit_s=LIMIT_S)
            after = here.server.usage()
            here.stop()
            late = records.total(here.records())
            mine = [each for each in found if each.pid == found[-1].pid]
            span = records.window(mine, warm_up=slice_of // 10)
            cost = after.since(before).cpu_s / records.total(mine) * 1e6
            curve.add(int(size * run.scale), run_per_s=span.per_s, server_CPU_us_per_task=cost, enqueued_per_s=enqueued)
            queued, ran = wanted - (late - ran), late
    return curve


def processes(run: Run) -> Curve:
    curve = Curve("processes", "By worker processes (`--processes`)", "processes")
    for _ in range(run.rounds):
        for size in (1, 2, 4, 8):
            span = drain(
                run, run.count(40_000 + 30_000 * size), "--concurrency", "100", "--processes", str(size), processes=size
            )
            curve.add(size, run_per_s=span.per_s)
    return curve


def queues(run: Run) -> Curve:
    curve = Curve("queues", "One worker process, by queues it takes from", "queues")

    async def fill(url: str, size: int, count: int) -> None:
        from stem import TaskOptions

        app = Stem.connect(url)
        options = [TaskOptions(queue=f"q{number}") for number in range(size)]
        for first in range(0, count, AT_ONCE):
            await asyncio.gather(
                *(app.enqueue("noop", {"n": n}, options=options[n % size]) for n in range(first, first + AT_ONCE))
            )
        await app.close()

    for _ in range(run.rounds):
        for size in (1, 2, 4, 8, 16, 32, 64):
            count = max(AT_ONCE, run.count(30_000) // AT_ONCE * AT_ONCE)
            with round_of(run.stem) as here:
                asyncio.run(fill(here.server.url, size, count))
                names = [word for number in range(size) for word in ("--queue", f"q{number}")]
                before = here.server.usage()
                here.start(stem_worker("--concurrency", "100", *names))
                span = records.window(here.await_runs(count), warm_up=count // 10)
                cost = here.server.usage().since(before).cpu_s / count * 1e6
                curve.add(size, run_per_s=span.per_s, server_CPU_us_per_task=cost)
    return curve


def workers(run: Run) -> Curve:
    """Idle fleets: how long all of them take to answer, what they cost the server, and what they do to a lone task."""
    curve = Curve("workers", "By idle worker processes", "workers")
    for size in run.sizes(1, 5, 20, 50, 100, 200):
        with round_of(run.stem) as here:
            here.start(stem_worker("--processes", str(size)))
            ping_ms = figures.median(asyncio.run(pings(here.server.url, size, settle_s=3.0)))
            before = here.server.usage()
            time.sleep(5.0)
            used = here.server.usage().since(before)
            took: list[float] = here.produce("result", 100)["ms"]
            curve.add(
                size,
                ping_ms=ping_ms,
                enqueue_to_result_ms=figures.median(took),
                server_CPU_percent=used.cpu_s / 5.0 * 100,
            )
    return curve


CURVES: Final[dict[str, Callable[[Run], Curve]]] = {
    "batch": batch,
    "concurrency": concurrency,
    "payload": payload,
    "backlog": backlog,
    "processes": processes,
    "queues": queues,
    "workers": workers,
}


def drain(run: Run, count: int, *options: str, task: str = "noop", processes: int = 1) -> records.Window:
    """Fill, start a worker with these options, and return its rate."""
    with round_of(run.stem, step=10) as here:
        here.produce("fill", task, count)
        here.start(stem_worker(*options))
        found = here.await_runs(count - processes * 10, limit_s=60)
        return _window(here, found, count, processes)


def _window(here: Round, found: Sequence[records.Record], count: int, processes: int) -> records.Window:
    try:
        return records.window(found, warm_up=count // 10, processes=processes)
    except ValueError:
        # More processes than cores: the last one to start may find nothing left. Then it is the time of all together.
        return records.window([records.Record(0, r.count, r.at_ns, 0, 0) for r in found], warm_up=count // 10)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=CURVES, metavar="NAME", help=f"of {', '.join(CURVES)}")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--scale", type=float, default=1.0, help="how much of everything; to try it out")
    parser.add_argument("--out", type=Path, default=page.SCALE, help="the result file")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    began_s = time.monotonic()
    result = Result("scale")
    bench.describe(result)
    stem = next(each for each in contestants.ours() if each.label == "stem")
    pace = throughput.pace(Bench(result, contestants.ours(), began_s))
    result.machine["pace"] = f"{pace:.2f} of the tasks of a round on an idle machine"
    run = Run(stem, args.rounds, args.scale, pace)
    made: dict[str, dict[str, Any]] = {}
    for name in args.only or CURVES:
        say(f"--- {name}, {time.monotonic() - began_s:.0f} s")
        try:
            made[name] = CURVES[name](run).plain()
        except (RoundError, ValueError) as error:
            result.left_out[name] = str(error)[:300]
            say(f"{name}: {error}")
    bench.finish(result, began_s)
    if args.only and args.out.exists():
        made = {each["name"]: each for each in results.load(args.out).curves} | made
    result.curves = [made[name] for name in CURVES if name in made]
    results.save(result, args.out)
    if args.out == page.SCALE:
        page.write()
    for each in result.curves:
        print(f"{each['title']}\n{tables.curve(each['series'], each['x_label'])}\n")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
