"""docket (pydocket). Default: 10 tasks at once. Tuned: 100 tasks, uvloop, checks every 10 ms, due tasks every 50 ms."""

import asyncio
import datetime
import sys
from datetime import timedelta
from typing import Any

from docket import Docket, Worker

from benchmarks.peers import driver, stopwatch

TTL = timedelta(seconds=driver.KEEP_S if driver.RESULTS else 0)


async def noop(n: int) -> int:
    stopwatch.tick()
    return n


async def nap(n: int) -> int:
    await asyncio.sleep(driver.NAP_S)
    stopwatch.tick()
    return n


async def mark(n: int) -> int:
    stopwatch.mark(n)
    return n


tasks = [noop, nap, mark]
TUNING: dict[str, Any] = (
    {
        "concurrency": 100,
        "minimum_check_interval": timedelta(milliseconds=10),
        "scheduling_resolution": timedelta(milliseconds=50),
    }
    if driver.TUNED
    else {}
)


def make() -> Docket:
    docket = Docket(name="bench", url=driver.URL, execution_ttl=TTL)
    for task in tasks:
        docket.register(task)
    return docket


class Peer:
    async def open(self) -> None:
        self.docket = make()
        self.tasks = {task.__name__: task for task in tasks}
        await self.docket.__aenter__()

    async def close(self) -> None:
        await self.docket.__aexit__(None, None, None)

    async def enqueue(self, task: str, n: int) -> Any:
        return await self.docket.add(self.tasks[task])(n)

    async def enqueue_many(self, task: str, numbers: list[int]) -> None:
        await self.docket.add_many([self.docket.call(self.tasks[task])(n) for n in numbers])

    async def result(self, handle: Any) -> None:
        await handle.get_result(timeout=timedelta(seconds=30))

    async def later(self, task: str, numbers: list[int], at_s: float) -> None:
        at = datetime.datetime.fromtimestamp(at_s, datetime.UTC)
        await self.docket.add_many([self.docket.call(self.tasks[task], when=at)(n) for n in numbers])


async def work() -> None:
    async with make() as docket, Worker(docket, **TUNING) as worker:
        await worker.run_forever()


if __name__ == "__main__":
    if sys.argv[1] != "work":
        driver.drive_async(Peer())
    elif driver.TUNED:
        import uvloop

        uvloop.run(work())
    else:
        asyncio.run(work())
