"""taskiq on Redis. Default: streams, acknowledged when the result is saved. Tuned: a list, acknowledged when received,
no parsing of arguments, a prefetch of 100; uvloop in both. Delayed tasks come from its scheduler, a process of its own.
"""

import asyncio
import datetime
from typing import Any, ClassVar

from taskiq import AsyncBroker, TaskiqScheduler
from taskiq_redis import ListQueueBroker, ListRedisScheduleSource, RedisAsyncResultBackend, RedisStreamBroker

from benchmarks.peers import driver, stopwatch

broker: AsyncBroker = ListQueueBroker(driver.URL) if driver.TUNED else RedisStreamBroker(driver.URL)
if driver.RESULTS:
    broker = broker.with_result_backend(RedisAsyncResultBackend(driver.URL, result_ex_time=driver.KEEP_S))
source = ListRedisScheduleSource(driver.URL)
scheduler = TaskiqScheduler(broker, [source])


@broker.task(task_name="noop")
async def noop(n: int) -> int:
    stopwatch.tick()
    return n


@broker.task(task_name="nap")
async def nap(n: int) -> int:
    await asyncio.sleep(driver.NAP_S)
    stopwatch.tick()
    return n


@broker.task(task_name="mark")
async def mark(n: int) -> int:
    stopwatch.mark(n)
    return n


class Peer:
    tasks: ClassVar = {"noop": noop, "nap": nap, "mark": mark}

    async def open(self) -> None:
        await broker.startup()
        await source.startup()

    async def close(self) -> None:
        await broker.shutdown()
        await source.shutdown()

    async def enqueue(self, task: str, n: int) -> Any:
        return await self.tasks[task].kiq(n)

    async def enqueue_many(self, task: str, numbers: list[int]) -> None:
        for first in range(0, len(numbers), 100):
            await asyncio.gather(*(self.tasks[task].kiq(n) for n in numbers[first : first + 100]))

    async def result(self, handle: Any) -> None:
        await handle.wait_result(check_interval=0.005 if driver.TUNED else 0.2, timeout=30)

    async def later(self, task: str, numbers: list[int], at_s: float) -> None:
        at = datetime.datetime.fromtimestamp(at_s, datetime.UTC)
        for first in range(0, len(numbers), 100):
            await asyncio.gather(
                *(self.tasks[task].schedule_by_time(source, at, n) for n in numbers[first : first + 100])
            )


if __name__ == "__main__":
    driver.drive_async(Peer())
