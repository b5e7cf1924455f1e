"""A server that dies, comes back, and stands still."""

from __future__ import annotations

import asyncio
import time

from tests.faults.matrix.family import Row, family
from tests.faults.matrix.gauge import Gauge, off_loop
from tests.faults.matrix.invariants import judge
from tests.faults.matrix.load import Load
from tests.faults.matrix.stage import Stage
from tests.servers import Kind, redis_server_path


def kinds(stage: Stage) -> list[Kind]:
    """Return the servers to play on: both in full, where both are there."""
    return ["valkey", "redis"] if stage.scale == "full" and redis_server_path() is not None else ["valkey"]


@family("T-F4", "server: kill -9 and restart", share_s=60)
async def killed(stage: Stage) -> list[Row]:
    """AOF everysec: what was answered has been handed to the kernel, so it survives the death of the process."""
    return [await _killed(stage, kind) for kind in kinds(stage)]


async def _killed(stage: Stage, kind: Kind) -> Row:
    kills = stage.times(full=30, share=2)
    server = stage.server(kind=kind, in_memory=True)
    world = await stage.world(server.url, workers=3)
    gauge = Gauge(world)
    async with Load(world, stage.random) as load:
        for _ in range(kills):
            await asyncio.sleep(stage.random.uniform(1.0, 2.0))
            async with world.disturbed():
                server.kill9()
                async with gauge.quiet():
                    await asyncio.sleep(stage.random.choice([0.1, 0.5, 1.0, 2.5]))
                await off_loop(server.start)
                answers_ns = time.monotonic_ns()
                await gauge.working(answers_ns)
    verdict = await judge(world)
    gauge.into(verdict)
    title = f"{stage.family.title} ({kind}, AOF everysec)"
    return stage.row(
        verdict, check=title, injected=f"{kills} kills", note=f"{load.unknown} enqueues of unknown outcome"
    )
