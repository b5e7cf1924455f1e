"""A million tasks: what operators see of a queue that long, and what is left in a worker that ran them."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.measure.control import looks, stem_worker
from benchmarks.rounds import RoundError, round_of, say
from benchmarks.rows import EMPTY, FULL, MILLION

TASKS = 1_000_000
FEW = 10_000
LIMIT_S = 240.0


def run(bench: Bench) -> None:
    """Look, fill, look again; then run them all in one worker that had run 10 000 before."""
    stem = next(each for each in bench.ours() if each.label == "stem")
    tasks, few = int(TASKS * bench.scale), int(FEW * bench.scale)
    try:
        with round_of(stem, step=50) as here:
            add = bench.result.add
            here.start(stem_worker("--queue", "elsewhere"))
            for row, value in asyncio.run(looks(here.server.url)).items():
                add(row, label=EMPTY, name="stem", variant="", value=value)
            begin = time.monotonic()
            here.produce("fill", "noop", tasks, limit_s=LIMIT_S)
            say(f"million: {tasks:,} tasks enqueued in {time.monotonic() - begin:.0f} s")
            for row, value in asyncio.run(looks(here.server.url)).items():
                add(row, label=FULL, name="stem", variant="", value=value)
                say(f"million: {row} {value:.2f} ms with {tasks:,} queued")
            here.stop()
            here.start(stem_worker("--concurrency", "100"))
            found = here.await_runs(few, limit_s=LIMIT_S)
            pid = found[0].pid
            add("long-rss", label="10 000 tasks", name="stem", variant="", value=_rss_mb(pid))
            here.await_runs(tasks, limit_s=LIMIT_S, poll_s=0.5)
            add("long-rss", label=f"{MILLION} tasks", name="stem", variant="", value=_rss_mb(pid))
    except (RoundError, OSError) as error:
        bench.result.left_out["stem: a million tasks"] = str(error)[:300]
        say(f"million: {error}")


def _rss_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1000
