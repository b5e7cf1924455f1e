"""Stem with the defaults a user has: records and results, leases, fencing, heartbeats, statistics, control."""

import asyncio
import os
import time
from datetime import UTC, datetime
from typing import Any, ClassVar

from benchmarks.peers import driver, stopwatch
from stem import Stem

app = Stem.connect(os.environ["BENCH_URL"])
# A record is kept for its task's whole life; where nobody wants the result it goes with the task's end.
TTL_S = driver.KEEP_S if driver.RESULTS else 1
CONCURRENT = os.environ.get("BENCH_VARIANT") == "concurrent"


@app.task("noop", result_ttl=TTL_S)
async def noop(n: int) -> int | None:
    stopwatch.tick()
    return n if driver.RESULTS else None


@app.task("nap", result_ttl=TTL_S)
async def nap(n: int) -> int:
    await asyncio.sleep(driver.NAP_S)
    stopwatch.tick()
    return n


@app.task("mark", result_ttl=TTL_S)
async def mark(n: int) -> int:
    stopwatch.mark(n)
    return n


@app.task("carry")
async def carry(payload: str) -> int:
    stopwatch.tick()
    return len(payload)


@app.task("block")
async def block(seconds: float) -> None:
    """Sleep on the work loop, which stands still meanwhile."""
    time.sleep(seconds)  # noqa: ASYNC251 - that is what is measured: a handler that does so


@app.task("spin")
async def spin(seconds: float) -> None:
    """Keep the work loop and a core busy."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


class Peer:
    tasks: ClassVar[dict[str, Any]] = {"noop": noop, "nap": nap, "mark": mark}

    async def open(self) -> None: ...

    async def close(self) -> None:
        await app.close()

    async def enqueue(self, task: str, n: int) -> Any:
        return await self.tasks[task].enqueue(n)

    async def enqueue_many(self, task: str, numbers: list[int]) -> None:
        if CONCURRENT:
            await asyncio.gather(*(self.tasks[task].enqueue(n) for n in numbers))
        else:
            await app.enqueue_many([self.tasks[task].signature(n) for n in numbers])

    async def result(self, handle: Any) -> None:
        await app.wait_for(handle, timeout=30)

    async def later(self, task: str, numbers: list[int], at_s: float) -> None:
        eta = datetime.fromtimestamp(at_s, UTC)
        later = self.tasks[task].with_options(eta=eta)
        await app.enqueue_many([later.signature(n) for n in numbers])


if __name__ == "__main__":
    driver.drive_async(Peer())
