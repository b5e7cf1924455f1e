"""Raw: the same commands with no queue around them, pipelined by 100: XREADGROUP, XACK, XDEL, SET of a result."""

import asyncio
import os
import sys

import redis.asyncio

from benchmarks.peers.stopwatch import tick

BATCH = 100


def client() -> redis.asyncio.Redis:
    return redis.asyncio.from_url(os.environ["BENCH_URL"], protocol=2)


async def fill(count: int) -> None:
    connection = client()
    await connection.delete("raw")
    await connection.xgroup_create("raw", "g", id="0", mkstream=True)
    body = b"x" * 100
    for first in range(0, count, 500):
        pipeline = connection.pipeline(transaction=False)
        for n in range(first, min(first + 500, count)):
            pipeline.xadd("raw", {"n": n, "b": body})
        await pipeline.execute()
    await connection.aclose()


async def work() -> None:
    connection = client()
    while True:
        reply = await connection.execute_command(  # type: ignore[no-untyped-call] # of redis-py
            "XREADGROUP", "GROUP", "g", "c", "COUNT", BATCH, "BLOCK", 500, "STREAMS", "raw", ">"
        )
        if not reply:
            break
        ids: list[bytes] = [entry for entry, _ in reply[0][1]]
        pipeline = connection.pipeline(transaction=False)
        for entry in ids:
            pipeline.set(b"raw:result:" + entry, b"1", px=86_400_000)
        pipeline.xack("raw", "g", *ids)
        pipeline.xdel("raw", *ids)
        await pipeline.execute()
        for _ in ids:
            tick()
    await connection.aclose()


if __name__ == "__main__":
    asyncio.run(fill(int(sys.argv[2])) if sys.argv[1] == "fill" else work())
