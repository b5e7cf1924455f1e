"""Raw: the same commands with no queue around them, on the same client and loop: XADD, XREADGROUP, SET, XACK, XDEL.

No lease, no retry, no record, no control: what is left when everything that makes a queue is taken away.
"""

import asyncio
import contextlib
import os
import sys
import time
from typing import Any

import redis.asyncio
import uvloop

from benchmarks.peers import driver, stopwatch

BATCH = int(os.environ.get("BENCH_BATCH", "100"))
Reply = list[tuple[bytes, list[tuple[bytes, dict[bytes, bytes]]]]]


def client() -> Any:
    return redis.asyncio.from_url(driver.URL, protocol=2)


async def make_group(connection: Any) -> None:
    with contextlib.suppress(redis.ResponseError):  # it is there already
        await connection.xgroup_create("raw", "g", id="0", mkstream=True)


class Peer:
    async def open(self) -> None:
        self.connection, self.waiting = client(), client()
        await make_group(self.connection)
        self.body = b"x" * 100

    async def close(self) -> None:
        await self.connection.aclose()
        await self.waiting.aclose()

    def fields(self, task: str, n: int) -> dict[str, Any]:
        return {"t": task, "n": n, "b": self.body}

    async def enqueue(self, task: str, n: int) -> Any:
        return await self.connection.xadd("raw", self.fields(task, n) | {"r": f"raw:done:{n}"})

    async def enqueue_many(self, task: str, numbers: list[int]) -> None:
        pipeline = self.connection.pipeline(transaction=False)
        for n in numbers:
            pipeline.xadd("raw", self.fields(task, n))
        await pipeline.execute()

    async def result(self, handle: Any) -> None:
        await self.waiting.blpop([b"raw:done:" + handle], timeout=30)

    async def later(self, task: str, numbers: list[int], at_s: float) -> None:
        pipeline = self.connection.pipeline(transaction=False)
        for n in numbers:
            self.member = getattr(self, "member", 0) + 1
            pipeline.zadd("raw:due", {f"{self.member}:{n}": at_s * 1000})
        await pipeline.execute()


class Plain(Peer):
    """The same without the reply that `result` waits for."""

    async def enqueue(self, task: str, n: int) -> Any:
        return await self.connection.xadd("raw", self.fields(task, n))


class Worker:
    """Reads as many as there are slots, runs them, and answers all that are done in one pipeline."""

    def __init__(self) -> None:
        self.reading, self.writing = client(), client()
        self.running: set[asyncio.Task[None]] = set()
        self.done: list[tuple[bytes, bytes | None]] = []
        self.name = str(os.getpid())

    async def run(self) -> None:
        await make_group(self.writing)
        while True:
            free = BATCH - len(self.running)
            if not free:
                await asyncio.wait(self.running, return_when=asyncio.FIRST_COMPLETED)
                await self.settle()
                continue
            block = 1 if self.running or self.done else 500
            reply: Reply = await self.reading.execute_command(
                "XREADGROUP", "GROUP", "g", self.name, "COUNT", free, "BLOCK", block, "STREAMS", "raw", ">"
            )
            for entry, fields in reply[0][1] if reply else []:
                self.start(entry, fields)
            await self.settle()

    def start(self, entry: bytes, fields: Any) -> None:
        read = dict(zip(fields[::2], fields[1::2], strict=True)) if isinstance(fields, list) else fields
        waiter = b"raw:done:" + entry if b"r" in read else None
        match read[b"t"]:
            case b"noop":
                stopwatch.tick()
            case b"mark":
                stopwatch.mark(int(read[b"n"]))
            case _:
                task = asyncio.create_task(self.nap(entry))
                self.running.add(task)
                task.add_done_callback(self.running.discard)
                return
        self.done.append((entry, waiter))

    async def nap(self, entry: bytes) -> None:
        await asyncio.sleep(driver.NAP_S)
        stopwatch.tick()
        self.done.append((entry, None))

    async def settle(self) -> None:
        if not self.done:
            return
        done, self.done = self.done, []
        pipeline = self.writing.pipeline(transaction=False)
        for entry, waiter in done:
            if driver.RESULTS:
                pipeline.set(b"raw:result:" + entry, b"1", px=driver.KEEP_S * 1000)
            if waiter:
                pipeline.rpush(waiter, b"1")
                pipeline.expire(waiter, 60)
        ids = [entry for entry, _ in done]
        pipeline.xack("raw", "g", *ids)
        pipeline.xdel("raw", *ids)
        await pipeline.execute()


async def due() -> None:
    """Run what is due, 500 at a time; sleep until the first one is."""
    connection = client()
    while True:
        now_ms = time.time() * 1000
        members = await connection.zrangebyscore("raw:due", "-inf", now_ms, start=0, num=500)
        if not members:
            first = await connection.zrange("raw:due", 0, 0, withscores=True)
            await asyncio.sleep(max(0.0005, min(0.5, (first[0][1] - now_ms) / 1000)) if first else 0.05)
            continue
        pipeline = connection.pipeline(transaction=False)
        for member in members:
            stopwatch.mark(int(member.partition(b":")[2]))
            pipeline.set(b"raw:result:" + member, b"1", px=driver.KEEP_S * 1000)
        pipeline.zrem("raw:due", *members)
        await pipeline.execute()


async def work() -> None:
    await asyncio.gather(Worker().run(), due())


if __name__ == "__main__":
    if sys.argv[1] == "work":
        uvloop.run(work() if "due" in sys.argv else Worker().run())
    else:
        driver.drive_async(Peer() if sys.argv[1] == "result" else Plain())
