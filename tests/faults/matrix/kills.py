"""Workers that die: kill -9 under load."""

from __future__ import annotations

import asyncio

from tests.faults.matrix.family import Row, family
from tests.faults.matrix.invariants import judge
from tests.faults.matrix.load import Load
from tests.faults.matrix.stage import Stage


@family("T-L4", "kill -9 of a random worker under load", share_s=60)
async def random_kills(stage: Stage) -> list[Row]:
    server = stage.server()
    world = await stage.world(server.url, workers=4)
    kills = stage.times(full=100, share=4)
    async with Load(world, stage.random) as load:
        for number in range(kills):
            await asyncio.sleep(stage.random.uniform(0.1, 0.5))
            victim = stage.random.choice([worker.name for worker in world.fleet if worker.running])
            world.kill9(victim)
            world.fleet.spawn(f"w{number + 5}")
        await asyncio.sleep(0.5)
    verdict = await judge(world)
    return [stage.row(verdict, injected=f"{kills} kills", note=f"{load.unknown} enqueues of unknown outcome")]
