"""saq: one worker process, concurrency 100."""

import asyncio
import os
import sys
from typing import Any

from saq import Queue

from benchmarks.peers.stopwatch import tick

queue = Queue.from_url(os.environ["BENCH_URL"])


async def noop(ctx: Any, *, n: int) -> int:
    tick()
    return n


settings = {"queue": queue, "functions": [noop], "concurrency": 100}


async def fill(count: int) -> None:
    await queue.connect()
    for first in range(0, count, 100):
        await asyncio.gather(*(queue.enqueue("noop", n=n) for n in range(first, min(first + 100, count))))
    await queue.disconnect()


if __name__ == "__main__":
    asyncio.run(fill(int(sys.argv[1])))
