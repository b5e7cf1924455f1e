"""saq on Redis. Default: 10 jobs at once.

Tuned: 100 jobs, as many operations, results looked for every 5 ms instead of 500, hiredis; its program takes uvloop.
"""

import asyncio
import sys
from typing import Any

from saq import Queue

from benchmarks.peers import driver, stopwatch

queue = Queue.from_url(driver.URL, **({"max_concurrent_ops": 100} if driver.TUNED else {}))
TTL_S = driver.KEEP_S if driver.RESULTS else -1


async def noop(ctx: Any, *, n: int) -> int:
    stopwatch.tick()
    return n


async def nap(ctx: Any, *, n: int) -> int:
    await asyncio.sleep(driver.NAP_S)
    stopwatch.tick()
    return n


async def mark(ctx: Any, *, n: int) -> int:
    stopwatch.mark(n)
    return n


settings = {"queue": queue, "functions": [noop, nap, mark]} | ({"concurrency": 100} if driver.TUNED else {})


class Peer:
    async def open(self) -> None:
        await queue.connect()

    async def close(self) -> None:
        await queue.disconnect()

    async def enqueue(self, task: str, n: int) -> Any:
        return await queue.enqueue(task, n=n, ttl=TTL_S)

    async def enqueue_many(self, task: str, numbers: list[int]) -> None:
        for first in range(0, len(numbers), 100):
            await asyncio.gather(*(queue.enqueue(task, n=n, ttl=TTL_S) for n in numbers[first : first + 100]))

    async def result(self, handle: Any) -> None:
        await handle.refresh(until_complete=30)

    async def later(self, task: str, numbers: list[int], at_s: float) -> None:
        for first in range(0, len(numbers), 100):
            await asyncio.gather(
                *(queue.enqueue(task, n=n, ttl=TTL_S, scheduled=at_s) for n in numbers[first : first + 100])
            )


class Applying(Peer):
    """Enqueues and waits in one call: `refresh` misses what ends before it listens, where `apply` looks again."""

    pause = {"poll_interval": 0.005} if driver.TUNED else {}

    async def enqueue(self, task: str, n: int) -> Any:
        return await queue.apply(task, n=n, ttl=TTL_S, timeout=30, **self.pause)

    async def result(self, handle: Any) -> None:
        """It is here already."""


if __name__ == "__main__":
    driver.drive_async(Applying() if sys.argv[1] == "result" else Peer())
