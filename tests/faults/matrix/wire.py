"""Wires that fail: connections that stay open and carry nothing, are slow, break off, refuse, or change a byte.

The answers that get lost are in lost.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Final

from stem.control.answer import PingResult
from stem.worker.outage import SAID_EVERY_S
from tests.faults.chaos import ChaosProxy
from tests.faults.fleet import WorkerProcess
from tests.faults.matrix import lost as lost  # registers its families beside these
from tests.faults.matrix import spoilt as spoilt
from tests.faults.matrix import weather as weather
from tests.faults.matrix.family import Row, family
from tests.faults.matrix.invariants import judge
from tests.faults.matrix.stage import FaultWorld, Stage
from tests.faults.rules import Fault, Where, everywhere, of_kind
from tests.waiting import eventually

HALF_OPEN: Final[dict[str, Where]] = {
    "commands": of_kind("commands"),
    "bell": of_kind("bell"),
    "control": of_kind("control"),
    "vitals": of_kind("vitals"),
    "all": everywhere,
}
SILENT: Final = ("vitals", "all")
"""Those that cannot beat: ping has to name them."""
DETECTED_S: Final = 10.0
SLACK_S: Final = 5.0
"""For a loaded machine."""


@family("T-F7", "half-open: a connection stays open and carries nothing", share_s=120, full_s=900)
async def half_open(stage: Stage) -> list[Row]:
    """On each of a worker's connections in turn (five workers at once), and on all of them."""
    server = stage.server(aof=False)
    async with contextlib.AsyncExitStack() as stack:
        world = await stage.world(server.url, beat_s=1.0, STEM_VISIBILITY_TIMEOUT="10s")
        proxies = {
            kind: await stack.enter_async_context(ChaosProxy(server.url, server.folder / kind)) for kind in HALF_OPEN
        }
        workers = {
            kind: world.fleet.spawn(
                kind, queues=("default", f"only-{kind}"), env={"STEM_BROKER_URL": proxies[kind].url}
            )
            for kind in HALF_OPEN
        }
        for worker in workers.values():
            await world.ready(worker)
        rounds = stage.times(full=5, share=1)
        found: dict[str, float] = {}
        problems: list[str] = []
        for number in range(rounds):
            if number:
                await asyncio.sleep(SAID_EVERY_S)  # the next outage is news again only then
            async with world.disturbed(after_s=10.0):
                problems += await _half_open_once(world, proxies, workers, found)
        verdict = await judge(world)
        verdict.violations += problems
        verdict.violations += lost.tracebacks(world.fleet)
        for kind, seconds in found.items():
            verdict.expect(seconds < DETECTED_S + SLACK_S, f"{kind}: noticed after {seconds:.1f} s")
        verdict.recovery_s = max(found.values(), default=None)
        noticed = ", ".join(f"{kind} {seconds:.1f} s" for kind, seconds in found.items())
        return [stage.row(verdict, injected=f"{rounds} times on {len(HALF_OPEN)} workers", note=f"noticed: {noticed}")]


async def _half_open_once(
    world: FaultWorld,
    proxies: dict[str, ChaosProxy],
    workers: dict[str, WorkerProcess],
    found: dict[str, float],
) -> list[str]:
    holes = {kind: Fault(hole=True, where=where) for kind, where in HALF_OPEN.items()}
    before = {kind: worker.log().count("broker.away") for kind, worker in workers.items()}
    running = [await world.enqueue("nap", seconds=1.0, queue=f"only-{kind}") for kind in HALF_OPEN]
    await world.started(*running)
    began = time.monotonic()
    for kind, proxy in proxies.items():
        proxy.on(holes[kind])
    noticed = [
        asyncio.create_task(_notices(worker, before[kind], began, found, kind)) for kind, worker in workers.items()
    ]
    waiting = [await world.enqueue("quick", queue=f"only-{kind}") for kind in HALF_OPEN for _ in range(3)]
    problems = _named(await _ping_after(world, 4.0))
    await asyncio.gather(*noticed)
    for kind, proxy in proxies.items():
        proxy.off(holes[kind])
    healed = time.monotonic()
    await world.all_final([*running, *waiting], timeout=60)
    ping = await world.controller.ping()
    while ping.silent and time.monotonic() - healed < 30:
        ping = await world.controller.ping()
    problems += [f"{silent.name} is {silent.diagnosis} after healing" for silent in ping.silent]
    after = [await world.enqueue("quick", queue=f"only-{kind}") for kind in HALF_OPEN]
    await world.all_final(after, timeout=30)
    await eventually(lambda: all(_is_back(worker) for worker in workers.values()), 60, what="every outage is over")
    return problems


def _is_back(worker: WorkerProcess) -> bool:
    return worker.log().count("broker.back") == worker.log().count("broker.away")


async def _notices(worker: WorkerProcess, before: int, began: float, found: dict[str, float], kind: str) -> None:
    with contextlib.suppress(AssertionError):
        await eventually(
            lambda: worker.log().count("broker.away") > before, 30, what=f"{kind}: the worker says that it is cut off"
        )
    found[kind] = max(found.get(kind, 0.0), time.monotonic() - began)


async def _ping_after(world: FaultWorld, seconds: float) -> PingResult:
    await asyncio.sleep(seconds)
    return await world.controller.ping()


def _named(ping: PingResult) -> list[str]:
    """I10: who is cut off is named, everybody else has answered."""
    silent = {one.name: one.diagnosis for one in ping.silent}
    answered = {one.name for one in ping.workers}
    problems = [f"ping did not name {kind}" for kind in SILENT if kind not in silent]
    problems += [f"ping named {kind} {silent[kind]}" for kind in silent if kind not in SILENT]
    problems += [f"{kind} neither answered nor was named" for kind in HALF_OPEN if kind not in {*silent, *answered}]
    return problems
