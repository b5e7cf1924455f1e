"""What an orchestrator hears from a worker's health port: through an outage, a blocked work loop and a drain.

Each probe is an HTTP request with a limit of its own, as an orchestrator sends it; one without an answer in time is a
violation, whatever was to be answered.
"""

from __future__ import annotations

import asyncio
import http.client
import signal
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from tests.faults.fleet import WorkerProcess
from tests.faults.matrix.family import Row, family
from tests.faults.matrix.invariants import judge
from tests.faults.matrix.stage import FaultWorld, Stage
from tests.servers import Server
from tests.waiting import eventually

PROBE_EVERY_S: Final = 0.2
PROBE_WITHIN_S: Final = 5.0
NOTICED_S: Final = 10.0
"""How long an outage may go unnoticed by `/readyz`: three heartbeats of 0.4 s and a request, on a slow machine."""
BLOCKED_SEEN_S: Final = 5.0
BACK_S: Final = 30.0


@dataclass(slots=True)
class Probing:
    """The answers of one worker, in order: when they came and what the status was; 0 is none."""

    port: int
    live: list[tuple[float, int]] = field(default_factory=list)
    ready: list[tuple[float, int]] = field(default_factory=list)

    def ask(self) -> None:
        self.live.append((time.monotonic(), probe(self.port, "/livez")))
        self.ready.append((time.monotonic(), probe(self.port, "/readyz")))

    async def hears(self, path: str, status: int, within_s: float) -> float:
        """Wait until an answer from now on is this one; return after how many seconds it came."""
        began = time.monotonic()
        answers = self.live if path == "/livez" else self.ready

        def heard() -> list[float]:
            return [at - began for at, said in answers if at >= began and said == status]

        return (await eventually(heard, within_s, what=f"{path} says {status}"))[0]

    def between(self, path: str, begin: float, end: float) -> list[int]:
        return [said for at, said in (self.live if path == "/livez" else self.ready) if begin <= at <= end]


def probe(port: int, path: str) -> int:
    """Return the status, or 0 if nothing came in time."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PROBE_WITHIN_S)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


async def _worker(world: FaultWorld) -> tuple[WorkerProcess, Probing]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    env = {"STEM_HEALTH_HOST": "127.0.0.1"}
    return await world.worker("probed", options=["--health-port", str(port)], env=env), Probing(port)


@asynccontextmanager
async def _asking(probing: Probing) -> AsyncIterator[None]:
    async def run() -> None:
        while True:
            await asyncio.to_thread(probing.ask)
            await asyncio.sleep(PROBE_EVERY_S)

    task = asyncio.create_task(run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@family("T-H1", "probes: outage, blocked loop, drain", share_s=120)
async def probes(stage: Stage) -> list[Row]:
    """An outage restarts nobody, a blocked loop is seen in time, and who stops is sent no traffic."""
    # In memory, as in T-F4: what an fsync under way holds back at a kill -9 is the disk's loss, not what this is about.
    server = stage.server(in_memory=True)
    world = await stage.world(server.url)
    worker, probing = await _worker(world)
    wrong: list[str] = []
    async with _asking(probing):
        await probing.hears("/readyz", 200, BACK_S)
        away_s = stage.times(full=60, share=2)
        noticed_s, back_s = await _outage(world, server, probing, away_s, wrong)
        stage.say(f"outage seen after {noticed_s:.1f} s, ready {back_s:.1f} s after the server")
        blocked_s = await _blocked(world, probing, wrong)
        stage.say(f"blocked loop seen after {blocked_s:.1f} s")
        await _drained(world, probing)
    await _stopped(world, worker, probing.port, wrong)
    await world.worker("after")  # for what the stop handed back, if anything
    verdict = await judge(world)
    row = stage.row(
        verdict,
        injected=f"server away {away_s} s, loop blocked, drain, SIGTERM",
        note=f"{len(probing.live) + len(probing.ready)} probes; outage unready after {noticed_s:.1f} s; "
        f"blocked seen after {blocked_s:.1f} s",
    )
    row.recovery_s = max(back_s, row.recovery_s or 0.0)
    row.violations += wrong
    await world.close()
    return [row]


async def _outage(
    world: FaultWorld, server: Server, probing: Probing, away_s: float, wrong: list[str]
) -> tuple[float, float]:
    """Take the server away; return after how long that was seen, and how long after its return the worker was ready."""
    await world.enqueue_some(20, "quick")
    async with world.disturbed():
        down = time.monotonic()
        server.kill9()
        noticed_s = await probing.hears("/readyz", 503, NOTICED_S)
        noticed = time.monotonic()
        await asyncio.sleep(max(0.0, away_s - (noticed - down)))
        up = time.monotonic()
        await asyncio.to_thread(server.start)
        back_s = await probing.hears("/readyz", 200, BACK_S)
    live, ready = probing.between("/livez", down, up), probing.between("/readyz", noticed, up)
    if not live or set(live) != {200}:
        wrong.append(f"/livez without the server: {sorted(set(live))} in {len(live)} probes")
    if not ready or set(ready) != {503}:
        wrong.append(f"/readyz without the server: {sorted(set(ready))} in {len(ready)} probes")
    await world.enqueue_some(20, "quick")
    return noticed_s, back_s


async def _blocked(world: FaultWorld, probing: Probing, wrong: list[str]) -> float:
    """Block the work loop; return after how long `/livez` said so."""
    task_id = await world.enqueue("block", seconds=6.5)
    await world.started(task_id)
    seen_s = await probing.hears("/livez", 503, 8.0)
    if seen_s > BLOCKED_SEEN_S:
        wrong.append(f"/livez saw a blocked loop after {seen_s:.1f} s only")
    await probing.hears("/livez", 200, BACK_S)
    return seen_s


async def _drained(world: FaultWorld, probing: Probing) -> None:
    await world.controller.drain(["probed"], wait_s=10)
    await probing.hears("/readyz", 503, NOTICED_S)
    await probing.hears("/livez", 200, NOTICED_S)
    await world.controller.undrain(["probed"], wait_s=10)
    await probing.hears("/readyz", 200, NOTICED_S)


async def _stopped(world: FaultWorld, worker: WorkerProcess, port: int, wrong: list[str]) -> None:
    """Stop it while a task runs: live, not ready, and then gone with code 0."""
    task_id = await world.enqueue("nap", seconds=2.0)
    await world.started(task_id)
    worker.send(signal.SIGTERM)

    async def unready() -> bool:
        return await asyncio.to_thread(probe, port, "/readyz") == 503

    await eventually(unready, NOTICED_S, what="/readyz says 503 while it stops")
    if (said := await asyncio.to_thread(probe, port, "/livez")) != 200:
        wrong.append(f"/livez said {said} while the worker finished its task")
    if (code := await worker.exit_code()) != 0:
        wrong.append(f"the worker ended with {code}")
