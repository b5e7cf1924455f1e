"""Stem: one worker process, concurrency 100, all else at its defaults (leases, fencing, results, control)."""

import asyncio
import os
import sys

from benchmarks.peers.stopwatch import tick
from stem import Stem

app = Stem.connect(os.environ["BENCH_URL"])


@app.task("noop")
async def noop(n: int) -> int:
    tick()
    return n


async def fill(count: int) -> None:
    for first in range(0, count, 500):
        await app.enqueue_many([noop.signature(n) for n in range(first, min(first + 500, count))])
    await app.close()


if __name__ == "__main__":
    asyncio.run(fill(int(sys.argv[1])))
