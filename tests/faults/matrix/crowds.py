"""Many workers: thousands that come and go, and hundreds that are there at once."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from stem.control.controller import Controller
from tests.faults.fleet import ROOT
from tests.faults.ledger import LEDGER_VARIABLE, PARENT_VARIABLE, Disturbance
from tests.faults.matrix.family import Row, family
from tests.faults.matrix.invariants import judge
from tests.faults.matrix.load import Load
from tests.faults.matrix.stage import FaultWorld, Stage
from tests.servers import Server
from tests.waiting import eventually

HOUR_MS: Final = 3_600_000
UP_S: Final = 300.0
SLACK: Final = 10
"""Connections that the family's own clients may have opened meanwhile."""


class CrowdProcess:
    """One process of `tests.faults.crowd`."""

    def __init__(self, world: FaultWorld, name: str, *, count: int, generations: int = 0, beat_s: float) -> None:
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("STEM_")},
            "STEM_HEARTBEAT_INTERVAL": f"{round(beat_s * 1000)}ms",
            "STEM_VISIBILITY_TIMEOUT": "2s",
            "STEM_BROKER_URL": world.url,
            "STEM_NAMESPACE": world.namespace,
            LEDGER_VARIABLE: str(world.fleet.folder / "ledger"),
            PARENT_VARIABLE: str(os.getpid()),
        }
        command = [sys.executable, "-m", "tests.faults.crowd", "--name", name, "--count", str(count)]
        command += ["--generations", str(generations)]
        self.name = name
        self._out = world.fleet.folder / f"crowd-{name}.out"
        self._err = world.fleet.folder / f"crowd-{name}.err"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=environment, cwd=ROOT
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def said(self, word: str) -> list[dict[str, Any]]:
        """Return its lines that have this word."""
        lines = self._out.read_text().splitlines(keepends=True)
        facts = [json.loads(line) for line in lines if line.endswith("\n")]
        return [fact for fact in facts if word in fact]

    async def up(self) -> None:
        def there() -> bool:
            self._alive()
            return bool(self.said("up"))

        await eventually(there, UP_S, what=f"the workers of {self.name} are up")

    async def gone(self) -> dict[str, Any]:
        """Wait for its end; return its last words."""
        await eventually(lambda: self.process.poll() is not None, UP_S, what=f"the end of {self.name}")
        self._alive(0)
        (words,) = self.said("gone")
        return words

    def _alive(self, code: int | None = None) -> None:
        if self.process.poll() != code:
            raise AssertionError(f"{self.name} ended with {self.process.poll()}:\n{self._err.read_text()[-3000:]}")

    def kill9(self) -> None:
        self.process.kill()
        self.process.wait()


@asynccontextmanager
async def ending(processes: list[CrowdProcess]) -> AsyncIterator[list[CrowdProcess]]:
    """End what is left of these."""
    try:
        yield processes
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                process.kill9()


# ----------------------------------------------------------------------------------------------------------- churn


@family("T-F21", "workers that come, take a task, and leave or die", share_s=120)
async def churn(stage: Stage) -> list[Row]:
    """Neither a consumer nor a key nor a connection is left of them; what the dead held is run by others."""
    full = stage.scale == "full"
    size, generations, leaving = (25, 18, 4) if full else (10, 2, 2)
    dying, batch = (8, 25) if full else (1, 10)
    server = stage.server()
    world = await stage.world(server.url, concurrency=1, workers=1)
    before = _connections(server)
    async with ending([]) as crowds:
        async with Load(world, stage.random, per_s=100 if full else 60, lease_s=2.0):
            for number in range(leaving):
                crowds.append(CrowdProcess(world, f"l{number}", count=size, generations=generations, beat_s=0.4))
            for number in range(dying):
                victim = CrowdProcess(world, f"d{number}", count=batch, beat_s=0.4)
                crowds.append(victim)
                await victim.up()
                await asyncio.sleep(stage.random.uniform(0.2, 0.8))
                world.disturbances.append(Disturbance(time.monotonic_ns(), 2**63, frozenset([victim.pid])))
                victim.kill9()
            words = [await process.gone() for process in crowds[:leaving]]
        await world.all_final(sorted(world.ledger.read().ids("acked")), timeout=60)
        complaints = [
            f"a process that had many workers has {fact['after']} left, it began with {fact['before']}"
            for fact in words
            if _grown(fact)
        ]
        complaints += await _nothing_left(world, server, before, dead=dying * batch)
    verdict = await judge(world)
    verdict.violations += complaints
    left = sum(fact["gone"] for fact in words)
    return [stage.row(verdict, injected=f"{left} workers left, {dying * batch} died", note="all real Worker objects")]


def _grown(fact: dict[str, Any]) -> bool:
    """Say whether a process holds more than before its workers: a connection or thread of each would be dozens."""
    return any(fact["after"][what] > fact["before"][what] + 3 for what in fact["before"])


async def _nothing_left(world: FaultWorld, server: Server, before: int, *, dead: int) -> list[str]:
    """Look for what is left of workers, before and after an hour has passed for the dead."""
    complaints = []
    (alive,) = {worker.id for worker in world.fleet if worker.running}
    seen = {one.heartbeat.id: one for one in await world.broker.presence.workers()}
    lost = {worker for worker, one in seen.items() if not one.stopped and worker != alive}
    consumers = _consumers(server, world)
    if strangers := consumers - lost - {alive}:
        complaints.append(f"{len(strangers)} consumers of workers that said goodbye: {sorted(strangers)[:3]}")
    if len(lost) != dead:
        complaints.append(f"{dead} workers were killed, {len(lost)} count as lost")
    prefix = f"{{{world.namespace}}}:"
    for worker in lost:
        server.command("ZINCRBY", f"{prefix}workers", -HOUR_MS, worker)

    async def forgotten() -> bool:
        return not lost & {one.heartbeat.id for one in await world.broker.presence.workers()}

    await eventually(forgotten, 30, what="the next heartbeat forgets whom nobody heard of for an hour")
    server.command("HDEL", f"{prefix}q:default:meta", "rp")  # a minute passes, too
    try:
        await eventually(lambda: _consumers(server, world) == {alive}, 30, what="only the living have consumers")
    except AssertionError:
        complaints.append(f"{len(_consumers(server, world)) - 1} consumers of the dead are left after an hour")
    try:
        await eventually(lambda: _connections(server) <= before + SLACK, 15)
    except AssertionError:
        complaints.append(f"{_connections(server)} connections; before the workers came there were {before}")
    with server.client() as client:
        hashes = list(client.scan_iter(match=f"{prefix}worker:*".replace("{", "\\{"), count=1000))
        lasting = [key for key in hashes if client.pttl(key) < 0 or client.pttl(key) > HOUR_MS + 60_000]
    if lasting:
        complaints.append(f"{len(lasting)} workers are remembered for more than an hour")
    return complaints


def _consumers(server: Server, world: FaultWorld) -> set[str]:
    """Return the consumers of every stream there is."""
    prefix = f"{{{world.namespace}}}:q:default:p"
    with server.client() as client:
        streams = [key for key in (f"{prefix}{priority}" for priority in range(10)) if client.exists(key)]
        return {row["name"] for stream in streams for row in client.xinfo_consumers(stream, "stem")}


def _connections(server: Server) -> int:
    with server.client() as client:
        return len(client.client_list())


# ----------------------------------------------------------------------------------------------------------- fleet


@family("T-L2", "a fleet of live workers: ping, pause, server restart", share_s=120)
async def fleet(stage: Stage) -> list[Row]:
    """All of them answer, quickly; a pause reaches all; after the server came back, all of them do."""
    full = stage.scale == "full"
    processes, each, pings = (4, 50, 50) if full else (2, 15, 10)
    size = processes * each
    server = stage.server()
    world = await stage.world(server.url, beat_s=2.0)
    busy = os.getloadavg()[0]
    async with ending([CrowdProcess(world, f"c{n}", count=each, beat_s=2.0) for n in range(processes)]) as crowds:
        for crowd in crowds:
            await crowd.up()
        notes, complaints = await _ask(world, size, pings, quick=full and busy < (os.cpu_count() or 1))
        if busy >= (os.cpu_count() or 1):
            notes.append(f"not judged: the machine was busy (load {busy:.0f})")
        if full:
            notes.append(f"server CPU {await _idle_cost(server):.1f} % of a core with nothing to do")
        async with Load(world, stage.random, per_s=10, lease_s=2.0):
            await asyncio.sleep(0.5)
            async with world.disturbed(after_s=30):
                server.kill9()
                server.start()
                back_s = await _all_back(world, size)
        if full and back_s > 10:
            complaints.append(f"all were back after {back_s:.1f} s only")
        verdict = await judge(world)
        for crowd in crowds:
            crowd.process.terminate()
        words = [await crowd.gone() for crowd in crowds]
        complaints += [f"threads, files, tasks left: {fact}" for fact in words if _grown(fact)]
    verdict.violations += complaints
    verdict.recovery_s = back_s
    row = stage.row(
        verdict, injected=f"{size} workers in {processes} processes; server killed once", note="; ".join(notes)
    )
    return [row]


async def _ask(world: FaultWorld, size: int, pings: int, *, quick: bool) -> tuple[list[str], list[str]]:
    """Ping the fleet and pause a queue of it; return figures and complaints."""
    control = Controller(world.broker, actor="tests", timeout_s=30.0)
    complaints = []
    times = []
    for _ in range(pings):
        answer = await control.ping()
        times.append(answer.elapsed_ms)
        if (answer.expected, answer.replied, len(answer.silent)) != (size, size, 0):
            complaints.append(f"of {size} workers {answer.expected} were expected, {answer.replied} answered a ping")
    times.sort()
    p50, p95 = times[len(times) // 2], times[int(0.95 * (len(times) - 1))]
    notes = [f"{pings} pings: p50 {p50:.0f} ms, p95 {p95:.0f} ms, max {times[-1]:.0f} ms"]
    if quick and p95 >= 250:
        complaints.append(f"ping of {size}: p95 {p95:.0f} ms")
    paused = await control.pause("queue", ["default"], wait_s=30)
    resumed = await control.resume("queue", ["default"], wait_s=30)
    notes.append(f"pause confirmed by all after {paused.elapsed_ms:.0f} ms")
    for result in (paused, resumed):
        if (result.expected, result.applied) != (size, size):
            complaints.append(f"a pause or resume was confirmed by {result.applied} of {result.expected}")
    return notes, complaints


async def _all_back(world: FaultWorld, size: int) -> float:
    """Return how many seconds it took until the whole fleet answered a ping again."""
    begun = time.monotonic()
    control = Controller(world.broker, actor="tests", timeout_s=1.0)

    async def everybody() -> bool:
        return (await control.ping()).replied == size

    await eventually(everybody, 60, what=f"all {size} workers answer")
    return time.monotonic() - begun


async def _idle_cost(server: Server, seconds: float = 3.0) -> float:
    """Return the per cent of a core that the server uses for a fleet with nothing to do."""

    def used() -> float:
        cpu = server.command("INFO", "cpu")
        return float(cpu["used_cpu_user"]) + float(cpu["used_cpu_sys"])

    before = used()
    await asyncio.sleep(seconds)
    return 100 * (used() - before) / seconds
