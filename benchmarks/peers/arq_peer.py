"""arq. Default: 10 jobs at once, a poll every 0.5 s. Tuned: 100 jobs, a poll every 10 ms, MessagePack, uvloop."""

import asyncio
import datetime
import sys
from typing import Any, ClassVar

import msgpack
from arq import create_pool, func
from arq.connections import RedisSettings
from arq.worker import run_worker

from benchmarks.peers import driver, stopwatch

REDIS = RedisSettings.from_dsn(driver.URL)
PACKED: dict[str, Any] = (
    {"job_serializer": msgpack.packb, "job_deserializer": lambda data: msgpack.unpackb(data, raw=False)}
    if driver.TUNED
    else {}
)


async def noop(ctx: Any, n: int) -> int:
    stopwatch.tick()
    return n


async def nap(ctx: Any, n: int) -> int:
    await asyncio.sleep(driver.NAP_S)
    stopwatch.tick()
    return n


async def mark(ctx: Any, n: int) -> int:
    stopwatch.mark(n)
    return n


class Settings:
    redis_settings = REDIS
    functions: ClassVar = [func(each, keep_result=driver.KEEP_S if driver.RESULTS else 0) for each in (noop, nap, mark)]
    if driver.TUNED:
        max_jobs = 100
        poll_delay = 0.01
        log_results = False
        job_serializer = PACKED["job_serializer"]
        job_deserializer = PACKED["job_deserializer"]


class Peer:
    async def open(self) -> None:
        self.pool = await create_pool(REDIS, **PACKED)

    async def close(self) -> None:
        await self.pool.aclose()

    async def enqueue(self, task: str, n: int) -> Any:
        return await self.pool.enqueue_job(task, n)

    async def enqueue_many(self, task: str, numbers: list[int]) -> None:
        for first in range(0, len(numbers), 100):
            await asyncio.gather(*(self.pool.enqueue_job(task, n) for n in numbers[first : first + 100]))

    async def result(self, handle: Any) -> None:
        await handle.result(timeout=30, poll_delay=0.005 if driver.TUNED else 0.5)

    async def later(self, task: str, numbers: list[int], at_s: float) -> None:
        until = datetime.datetime.fromtimestamp(at_s, datetime.UTC)
        for first in range(0, len(numbers), 100):
            await asyncio.gather(
                *(self.pool.enqueue_job(task, n, _defer_until=until) for n in numbers[first : first + 100])
            )


if __name__ == "__main__":
    if sys.argv[1] == "work":
        import uvloop

        asyncio.set_event_loop(uvloop.new_event_loop())
        run_worker(Settings)
    else:
        driver.drive_async(Peer())
