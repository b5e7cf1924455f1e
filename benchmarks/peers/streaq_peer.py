"""streaq. Default: 16 tasks at once. Tuned: 100 tasks, uvloop, JSON instead of pickle."""

import asyncio
import datetime
import json
from typing import Any, ClassVar

from streaq import Worker

from benchmarks.peers import driver, stopwatch

TUNING: dict[str, Any] = (
    {
        "concurrency": 100,
        "anyio_kwargs": {"use_uvloop": True},
        "serializer": json.dumps,
        "deserializer": json.loads,
    }
    if driver.TUNED
    else {}
)
worker: Any = Worker(redis_url=driver.URL, **TUNING)
TTL_S = driver.KEEP_S if driver.RESULTS else 0


@worker.task(ttl=TTL_S, name="noop")
async def noop(n: int) -> int:
    stopwatch.tick()
    return n


@worker.task(ttl=TTL_S, name="nap")
async def nap(n: int) -> int:
    await asyncio.sleep(driver.NAP_S)
    stopwatch.tick()
    return n


@worker.task(ttl=TTL_S, name="mark")
async def mark(n: int) -> int:
    stopwatch.mark(n)
    return n


class Peer:
    tasks: ClassVar = {"noop": noop, "nap": nap, "mark": mark}

    async def open(self) -> None:
        self.held = worker.__asynccontextmanager__() if not hasattr(worker, "__aenter__") else worker
        await self.held.__aenter__()

    async def close(self) -> None:
        await self.held.__aexit__(None, None, None)

    async def enqueue(self, task: str, n: int) -> Any:
        return await self.tasks[task].enqueue(n)

    async def enqueue_many(self, task: str, numbers: list[int]) -> None:
        await worker.enqueue_many([self.tasks[task].enqueue(n) for n in numbers])

    async def result(self, handle: Any) -> None:
        await handle.result(timeout=30)

    async def later(self, task: str, numbers: list[int], at_s: float) -> None:
        at = datetime.datetime.fromtimestamp(at_s, datetime.UTC)
        await worker.enqueue_many([self.tasks[task].enqueue(n).start(schedule=at) for n in numbers])


if __name__ == "__main__":
    driver.drive_async(Peer())
