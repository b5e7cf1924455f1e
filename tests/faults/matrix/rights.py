"""A server that forgets its scripts, and one whose administrator changes who may do what."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from tests.faults.fleet import WorkerProcess
from tests.faults.matrix.family import Row, family
from tests.faults.matrix.gauge import Gauge, lines
from tests.faults.matrix.invariants import Verdict, judge
from tests.faults.matrix.load import Load
from tests.faults.matrix.stage import FaultWorld, Stage
from tests.servers import Server

USER: Final = "worker"
REFUSED_EXIT: Final = 78
TAKEN: Final = (
    ("-evalsha", "-eval"),
    ("-hset",),  # inside of scripts: they are refused half way
    ("-xreadgroup", "-zadd"),
    ("resetkeys",),
    ("-@all",),
)
"""Rights to take away, each in its own way of being refused."""


@family("T-F18", "server: scripts, rights and passwords change", share_s=120)
async def changed(stage: Stage) -> list[Row]:
    parts = [scripts_flushed, rights_lent, rights_taken, password_rotated]
    chosen = parts if stage.scale == "full" else [stage.random.choice(parts)]
    return [row for part in chosen for row in await part(stage)]


async def scripts_flushed(stage: Stage) -> list[Row]:
    server = stage.server()
    world = await stage.world(server.url, workers=3)
    gauge = Gauge(world)
    times = stage.times(full=150, share=20)
    async with Load(world, stage.random, steer=True) as load:
        for _ in range(times):
            server.command("SCRIPT", "FLUSH")
            await asyncio.sleep(0.1)
    verdict = await judge(world)  # nothing was disturbed: no start may be repeated
    gauge.into(verdict, recovery=False)
    await world.close()
    check = "SCRIPT FLUSH every 100 ms"
    return [
        stage.row(verdict, check=check, injected=f"{times} times", note=f"{load.unknown} enqueues of unknown outcome")
    ]


@asynccontextmanager
async def _guarded(stage: Stage, workers: int) -> AsyncIterator[tuple[Server, FaultWorld]]:
    """A server on which workers have a user of their own, and producers and tests another."""
    server = stage.server()
    _grant(server, ">first")
    world = await stage.world(server.url)
    await world.workers(*(f"w{n + 1}" for n in range(workers)), env=_login(server, "first"))
    try:
        yield server, world
    finally:
        await world.close()


def _grant(server: Server, *rules: str) -> None:
    server.command("ACL", "SETUSER", USER, "on", "~*", "&*", "+@all", *rules)


def _login(server: Server, password: str) -> dict[str, str]:
    return {"STEM_BROKER_URL": f"unix://{USER}:{password}@{server.socket}"}


async def rights_lent(stage: Stage) -> list[Row]:
    """Shorter than three beats (1.2 s): workers ask again, and go on."""
    taken = list(TAKEN) if stage.scale == "full" else [stage.random.choice(TAKEN)]
    async with _guarded(stage, 3) as (server, world):
        gauge = Gauge(world)
        async with Load(world, stage.random) as load:
            for rules in taken:
                await asyncio.sleep(stage.random.uniform(2.0, 2.5))
                async with world.disturbed():
                    async with gauge.quiet(server):
                        server.command("ACL", "SETUSER", USER, *rules)
                        await asyncio.sleep(0.6)
                        _grant(server)
                    await gauge.working()
        verdict = await judge(world, counts=False)  # a script that is stopped half way has counted nothing
        gauge.into(verdict)
        gone = [worker.name for worker in world.fleet if not worker.running]
        verdict.expect(not gone, f"ended, although the rights came back: {gone}")
    note = f"{load.unknown} enqueues of unknown outcome"
    check = "rights of the workers taken away, and given back in time"
    return [stage.row(verdict, check=check, injected=f"{len(taken)} times 0.6 s", note=note)]


async def rights_taken(stage: Stage) -> list[Row]:
    taken = list(TAKEN) if stage.scale == "full" else [TAKEN[0]]
    return [await _taken(stage, rules) for rules in taken]


async def _taken(stage: Stage, rules: tuple[str, ...]) -> Row:
    async with _guarded(stage, 2) as (server, world):
        gauge = Gauge(world)
        shut_out = list(world.fleet)
        async with Load(world, stage.random) as load:
            await load.until(60)
            async with world.disturbed(after_s=10.0):
                begun = time.monotonic()
                async with gauge.quiet(server, settle_s=0.0):
                    server.command("ACL", "SETUSER", USER, *rules)
                    codes = [await worker.exit_code(20.0) for worker in shut_out]
                took = time.monotonic() - begun
                _grant(server)
                await world.workers("w3", "w4", env=_login(server, "first"))
                await gauge.working()
        verdict = await judge(world, counts=False)
        _expect_named(verdict, shut_out, codes, "NOPERM", rules)
        gauge.into(verdict, recovery=False)
    return stage.row(
        verdict,
        check=f"rights of the workers taken away for good: {' '.join(rules)}",
        injected="2 workers shut out",
        note=f"both ended with {REFUSED_EXIT} within {took:.1f} s; {load.unknown} enqueues of unknown outcome",
    )


def _expect_named(
    verdict: Verdict, workers: list[WorkerProcess], codes: list[int], what: str, rules: tuple[str, ...] = ()
) -> None:
    verdict.expect(codes == [REFUSED_EXIT] * len(workers), f"exit codes {codes}, expected {REFUSED_EXIT}")
    for worker in workers:
        reasons = [str(line["reason"]) for line in lines(worker) if line["event"] == "worker.broken"]
        verdict.expect(len(reasons) == 1, f"{worker.name} said {reasons} when it was shut out ({what})")
        if rules and rules[0].startswith("-") and rules[0] != "-@all":
            named = any(f"'{rule[1:]}'" in reason for reason in reasons for rule in rules)
            verdict.expect(named or "can't run this command" in "".join(reasons), f"no command is named in {reasons}")


async def password_rotated(stage: Stage) -> list[Row]:
    """New workers first, then the old ones stop, then the old password goes. Who still has it is shut out."""
    async with _guarded(stage, 3) as (server, world):
        gauge = Gauge(world)
        old = list(world.fleet)
        async with Load(world, stage.random) as load:
            await load.until(40)
            _grant(server, ">second")
            await world.workers("n1", "n2", env=_login(server, "second"))
            for worker in old[:2]:
                worker.send(signal.SIGTERM)
            codes = [await worker.exit_code(20.0) for worker in old[:2]]
            async with world.disturbed([old[2].pid], after_s=10.0):
                server.command("ACL", "SETUSER", USER, "<first")
                with contextlib.suppress(Exception):
                    server.command("CLIENT", "KILL", "USER", USER)
                forgotten = await old[2].exit_code(20.0)
                await gauge.working()
        verdict = await judge(world)
        verdict.expect(codes == [0, 0], f"old workers ended with {codes} on SIGTERM")
        _expect_named(verdict, [old[2]], [forgotten], "old password")
        gauge.into(verdict)
    note = f"the worker that was forgotten ended with {forgotten}; {load.unknown} enqueues of unknown outcome"
    check = "the workers' password is changed"
    return [stage.row(verdict, check=check, injected="1 rotation, 1 worker forgotten", note=note)]
