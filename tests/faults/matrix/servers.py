"""A server that dies, comes back, and stands still."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final

from tests.faults.matrix.family import Row, family
from tests.faults.matrix.gauge import Gauge, off_loop
from tests.faults.matrix.invariants import judge
from tests.faults.matrix.load import Load
from tests.faults.matrix.stage import Stage
from tests.servers import Kind, Server, redis_server_path


def kinds(stage: Stage) -> list[Kind]:
    """Return the servers to play on: both in full, where both are there."""
    return ["valkey", "redis"] if stage.scale == "full" and redis_server_path() is not None else ["valkey"]


@family("T-F4", "server: kill -9 and restart", share_s=120)
async def killed(stage: Stage) -> list[Row]:
    """AOF everysec: what was answered has been handed to the kernel, so it survives the death of the process."""
    return [await _killed(stage, kind) for kind in kinds(stage)]


async def _killed(stage: Stage, kind: Kind) -> Row:
    kills = stage.times(full=30, share=2)
    server = stage.server(kind=kind, in_memory=True)
    world = await stage.world(server.url, workers=3)
    gauge = Gauge(world)
    async with Load(world, stage.random) as load:
        for number in range(kills):
            await asyncio.sleep(stage.random.uniform(1.0, 2.0))
            async with world.disturbed():
                server.kill9()
                # Every other time something at its address takes connections and closes them, as a proxy would.
                door = gauge.knocking(server) if number % 2 == 0 else contextlib.nullcontext()
                async with gauge.quiet(), door:
                    await asyncio.sleep(stage.random.choice([0.1, 0.5, 1.0, 2.5]) if number else 1.0)
                await off_loop(server.start)
                answers_ns = time.monotonic_ns()
                await gauge.working(answers_ns)
    verdict = await judge(world)
    gauge.into(verdict)
    await world.close()
    title = f"{stage.family.title} ({kind}, AOF everysec)"
    return stage.row(
        verdict, check=title, injected=f"{kills} kills", note=f"{load.unknown} enqueues of unknown outcome"
    )


# ------------------------------------------------------------------------------------------------------------- stalls

Stall = Callable[[Server, float], Awaitable[None]]
"""Keeps a server from answering for so many seconds, and returns once it answers again."""


async def _sleep(server: Server, seconds: float) -> None:
    await off_loop(lambda: server.command("DEBUG", "SLEEP", seconds))


async def _pause(server: Server, seconds: float, what: str) -> None:
    server.command("CLIENT", "PAUSE", round(seconds * 1000), what)
    await asyncio.sleep(seconds)
    await off_loop(lambda: server.command("PING"))


async def _pause_all(server: Server, seconds: float) -> None:
    await _pause(server, seconds, "ALL")


async def _pause_write(server: Server, seconds: float) -> None:
    await _pause(server, seconds, "WRITE")


async def _busy(server: Server, seconds: float) -> None:
    """Somebody else's script does not end: after 50 ms everybody is told BUSY."""
    server.command("CONFIG", "SET", "lua-time-limit", 50)
    with server.client(timeout_s=60.0) as client:
        endless = asyncio.create_task(asyncio.to_thread(client.execute_command, "EVAL", "while true do end", 0))
        await asyncio.sleep(seconds)
        server.command("SCRIPT", "KILL")
        await asyncio.gather(endless, return_exceptions=True)


async def _loading(server: Server, seconds: float) -> None:
    """It comes back, and reads its file for so long: each command of it is made to take its time."""
    server.kill9()
    commands = sum(path.read_bytes().count(b"\r\n*") for path in server.folder.glob("appendonlydir/*.aof"))
    options = server.options
    server.options = (*options, "--key-load-delay", str(max(1, round(seconds * 1e6 / max(1, commands)))))
    await off_loop(server.start)
    server.options = options
    server.command("CONFIG", "SET", "key-load-delay", 0)


STALLS: Final[dict[str, Stall]] = {
    "DEBUG SLEEP": _sleep,
    "CLIENT PAUSE ALL": _pause_all,
    "CLIENT PAUSE WRITE": _pause_write,
    "BUSY script": _busy,
    "LOADING": _loading,
}


@family("T-F15", "server: answers nothing, or only that it cannot", share_s=120)
async def stalled(stage: Stage) -> list[Row]:
    if stage.scale == "share":
        return [
            await _stalled(
                stage,
                "valkey",
                [(name, stage.random.uniform(0.6, 1.2)) for name in stage.random.sample(list(STALLS), 3)],
            )
        ]
    return [
        await _stalled(stage, kind, [(name, seconds) for seconds in (1.0, 2.0, 3.0, 4.5, 6.0)])
        for kind in kinds(stage)
        for name in STALLS
    ]


async def _stalled(stage: Stage, kind: Kind, stalls: list[tuple[str, float]]) -> Row:
    server = stage.server(kind=kind, in_memory=True)
    world = await stage.world(server.url, workers=3)
    gauge = Gauge(world)
    chance = random.Random(stage.random.random())
    async with Load(world, stage.random) as load:
        for name, seconds in stalls:
            await asyncio.sleep(chance.uniform(0.3, 0.8))
            async with world.disturbed():
                # LOADING ends with the counters of a new process: only the processor time is looked at.
                async with gauge.quiet(None if name == "LOADING" else server):
                    await STALLS[name](server, seconds)
                answers_ns = time.monotonic_ns()
                await gauge.working(answers_ns)
    verdict = await judge(world)
    gauge.into(verdict)
    await world.close()
    names = list(dict.fromkeys(name for name, _ in stalls))
    return stage.row(
        verdict,
        check=f"{stage.family.title}: {', '.join(names)} ({kind})",
        injected=f"{len(stalls)} times {min(s for _, s in stalls):.1f} to {max(s for _, s in stalls):.1f} s",
        note=f"{load.unknown} enqueues of unknown outcome",
    )
