"""Somebody deletes what Stem keeps: everything, a queue's stream, its consumer group."""

from __future__ import annotations

import asyncio
import time

from tests.faults.matrix.family import Row, family
from tests.faults.matrix.gauge import Gauge, enqueue, said
from tests.faults.matrix.invariants import judge
from tests.faults.matrix.load import Load
from tests.faults.matrix.servers import kinds
from tests.faults.matrix.stage import FaultWorld, Stage
from tests.servers import Kind

BETWEEN_S = 0.8


@family("T-F11", "somebody deletes what Stem keeps", share_s=120)
async def deleted(stage: Stage) -> list[Row]:
    parts = [_flushed, _stream_deleted]
    chosen = parts if stage.scale == "full" else [stage.random.choice(parts)]
    return [await part(stage, kind) for part in chosen for kind in kinds(stage)]


async def _flushed(stage: Stage, kind: Kind) -> Row:
    times = stage.times(full=3, share=1)
    server = stage.server(kind=kind, in_memory=True)
    world = await stage.world(server.url, workers=3)
    gauge = Gauge(world)
    last_ns = 0
    async with Load(world, stage.random) as load:
        for _ in range(times):
            await asyncio.sleep(stage.random.uniform(BETWEEN_S, 1.5))
            async with world.disturbed():
                server.command("FLUSHALL")
                last_ns = time.monotonic_ns()
                await gauge.working(last_ns)
        await asyncio.sleep(0.5)
    gone, before = await forgotten(world, last_ns)
    verdict = await judge(world, forgiven=before, counts=False)
    gauge.into(verdict)
    ended = verdict.account.ids("final:succeeded", "final:failed")
    told = said(world, "broker.lost_data")
    verdict.expect(
        len({line["worker"] for line in told}) == 3, f"{len(told)} workers said that data was lost, not all 3"
    )
    await world.close()
    note = (
        f"the server forgot {len(gone)} acknowledged tasks, {len(gone - ended)} of them before they ended, each known "
        f"by id; {load.unknown} enqueues of unknown outcome"
    )
    return stage.row(verdict, check=f"FLUSHALL ({kind})", injected=f"{times} times", note=note)


async def forgotten(world: FaultWorld, until_ns: int) -> tuple[set[str], set[str]]:
    """Return the acknowledged ids that the server has no record of, and all that were tried before the loss.

    What was tried after it must be there: it counts as lost if it is not.
    """
    account = world.ledger.read()
    before = {line.id for line in account.lines if line.kind == "tried" and line.at_ns <= until_ns}
    acked = sorted(account.ids("acked") & before)
    gone: set[str] = set()
    for first in range(0, len(acked), 500):
        chunk = acked[first : first + 500]
        rows = await world.broker.statuses(chunk, timeline=False)
        gone |= {task_id for task_id, row in zip(chunk, rows, strict=True) if row is None}
    return gone, before


async def _stream_deleted(stage: Stage, kind: Kind) -> Row:
    """The records are the truth: a task that stands in no stream is put back, so nothing is lost."""
    times = stage.times(full=6, share=2)
    server = stage.server(kind=kind, in_memory=True)
    world = await stage.world(server.url, workers=3)
    gauge = Gauge(world)
    stream = f"{{{world.namespace}}}:q:default:p0"
    waiting = 0
    async with Load(world, stage.random) as load:
        for number in range(times):
            await asyncio.sleep(stage.random.uniform(BETWEEN_S, 1.5))
            # More at once than the workers have slots, for longer than this takes: so there is something to lose.
            await asyncio.gather(*(enqueue(world, "nap", seconds=0.5) for _ in range(60)))
            async with world.disturbed():
                waiting += int(server.command("XLEN", stream))
                if number % 2 == 0:
                    server.command("DEL", stream)
                else:
                    server.command("XGROUP", "DESTROY", stream, "stem")
                await gauge.working(time.monotonic_ns())
    verdict = await judge(world)
    gauge.into(verdict)
    verdict.expect(bool(said(world, "queue.mended")), "no worker said that a group was gone")
    verdict.expect(bool(said(world, "tasks.repaired")), "no worker said that tasks were put back")
    await world.close()
    return stage.row(
        verdict,
        check=f"DEL of a queue's stream, XGROUP DESTROY ({kind})",
        injected=f"{times} times",
        note=f"{waiting} entries were in the streams; {load.unknown} enqueues of unknown outcome",
    )
