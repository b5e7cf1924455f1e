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
LEFT_OUT = "stem: a million tasks"


def run(bench: Bench) -> None:
    """Fill, and look at it and at an empty one in turn; then run them all in one worker that had run 10 000 before."""
    stem = next(each for each in bench.ours() if each.label == "stem")
    tasks, few = int(TASKS * bench.scale), int(FEW * bench.scale)
    try:
        with round_of(stem, step=50) as here:
            add = bench.result.add
            here.start(stem_worker("--queue", "elsewhere"))
            begin = time.monotonic()
            here.produce("fill", "noop", tasks, limit_s=LIMIT_S)
            say(f"million: {tasks:,} tasks enqueued in {time.monotonic() - begin:.0f} s")
            with round_of(stem, step=50) as empty:
                empty.start(stem_worker("--queue", "elsewhere"))
                urls = {EMPTY: empty.server.url, FULL: here.server.url}
                for row, found in asyncio.run(looks(urls)).items():
                    for label, value in found.items():
                        add(row, label=label, name="stem", variant="", value=value)
                    say(f"million: {row} {found[EMPTY]:.2f} ms, with {tasks:,} queued {found[FULL]:.2f} ms")
            here.stop()
            here.start(stem_worker("--concurrency", "100"))
            pid = here.await_runs(few, limit_s=LIMIT_S)[0].pid
            add("long-rss", label="10 000 tasks", name="stem", variant="", value=_rss_mb(pid))
            here.await_runs(tasks, limit_s=LIMIT_S, poll_s=0.5)
            add("long-rss", label=f"{MILLION} tasks", name="stem", variant="", value=_rss_mb(pid))
        bench.result.measured.add(LEFT_OUT)
    except (RoundError, OSError) as error:
        bench.result.left_out[LEFT_OUT] = str(error)[:300]
        say(f"million: {error}")


def _rss_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1000
