"""Bad weather on every wire at once: late, sliced, narrow, broken off five times a second, refused, without a name."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import pytest

from stem.client import Stem
from stem.config import StemConfig
from stem.errors import BrokerUnreachableError, UnknownOutcomeError
from tests.faults.chaos import ChaosProxy
from tests.faults.fleet import WorkerProcess
from tests.faults.matrix.family import Row, family
from tests.faults.matrix.invariants import Verdict, judge
from tests.faults.matrix.load import Load
from tests.faults.matrix.lost import tracebacks
from tests.faults.matrix.nameless import NAME, RESOLVES_VARIABLE, look_up
from tests.faults.matrix.stage import Stage
from tests.faults.rules import Fault
from tests.servers import Server

Act = Callable[[ChaosProxy, float], Awaitable[None]]

LEASE: Final = "15s"
PER_S: Final = 15.0
LINES_PER_S: Final = 1.0
OF_TASKS: Final = frozenset(("task.retried", "task.failed"))
"""What the tasks of the load say of themselves, in good weather too."""
BACK_S: Final = 10.0


def _under(**fault: float) -> Act:
    async def act(proxy: ChaosProxy, seconds: float) -> None:
        with proxy.having(Fault(**fault)):  # type: ignore[arg-type]  # slices and bytes are whole numbers
            await asyncio.sleep(seconds)

    return act


async def _storm(proxy: ChaosProxy, seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        proxy.reset()
        await asyncio.sleep(0.2)


async def _refused(proxy: ChaosProxy, seconds: float) -> None:
    proxy.refuse()
    proxy.reset()
    await asyncio.sleep(seconds)
    proxy.accept()


WEATHERS: Final[Mapping[str, Act]] = {
    "50 ms late each way, up to 25 ms more at random": _under(latency_s=0.05, jitter_s=0.025),
    "500 ms late each way, up to 250 ms more at random": _under(latency_s=0.5, jitter_s=0.25),
    "one byte at a time": _under(slice_bytes=1),
    "64 kB/s": _under(bytes_per_s=64_000),
    "reset five times a second": _storm,
    "refused": _refused,
}


@family("T-F8", "latency, slices, bandwidth, resets, refusals", share_s=120, full_s=600)
async def weathers(stage: Stage) -> list[Row]:
    """All at the same time, each on a world of its own."""
    server = stage.server(aof=False, tcp=True)
    seconds = stage.times(full=60, share=3)
    return await asyncio.gather(
        *(_weather(stage, server, name, act, seconds) for name, act in WEATHERS.items()),
        _nameless(stage, server, stage.times(full=30, share=1)),
    )


async def _weather(stage: Stage, server: Server, name: str, act: Act, seconds: float) -> Row:
    chance = random.Random(f"{stage.seed} {name}")
    async with ChaosProxy(server.tcp_url, seed=stage.seed) as proxy:
        world = await stage.world(server.url, beat_s=2.0, STEM_BROKER_URL=proxy.url, STEM_VISIBILITY_TIMEOUT=LEASE)
        names = [f"w{n + 1}" for n in range(stage.times(full=2, share=1))]
        workers = await world.workers(*names)
        async with Load(world, chance, per_s=PER_S, url=proxy.url) as load:
            await load.until(10)
            before = {worker.name: len(_lines(worker)) for worker in workers}
            began = time.monotonic()
            # Only who could renew nothing for longer than a lease may have lost what it ran.
            if act is _refused:
                async with world.disturbed(after_s=BACK_S):
                    await act(proxy, seconds)
            else:
                await act(proxy, seconds)
            await load.until(load.acked + 10)
            took = time.monotonic() - began
        verdict = await judge(world)
        _quiet(verdict, workers, before, took)
        return stage.row(
            verdict, check=name, injected=f"{took:.0f} s", note=f"{load.unknown} enqueues of unknown outcome"
        )


async def _nameless(stage: Stage, server: Server, seconds: float) -> Row:
    """The broker's name does not resolve when the worker starts, and ceases to while it works."""
    resolves = stage.folder / "resolves"
    async with ChaosProxy(server.tcp_url, seed=stage.seed) as proxy:
        url = proxy.url.replace("127.0.0.1", NAME)
        env = {"STEM_BROKER_URL": url, "STEM_VISIBILITY_TIMEOUT": LEASE, RESOLVES_VARIABLE: str(resolves)}
        world = await stage.world(server.url, workers=0, beat_s=2.0, concurrency=8, **env)
        began = time.monotonic()
        worker = world.fleet.spawn("w1", app="tests.faults.matrix.nameless:app")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(socket, "getaddrinfo", look_up)
            async with Stem.connect(url, namespace=world.namespace, config=StemConfig(), patience=0.5) as stem:
                # Which of the two depends on whether an attempt is under way when the patience ends.
                with pytest.raises((BrokerUnreachableError, UnknownOutcomeError), match="Name or service not known"):
                    await stem.enqueue("fault.quick")
        ids = await world.enqueue_some(20, "quick")
        await asyncio.sleep(seconds)
        verdict_before = worker.running
        resolves.touch()
        await world.ready(worker)
        await world.all_final(ids, timeout=30)
        async with world.disturbed(after_s=BACK_S):
            resolves.unlink()
            proxy.reset()
            ids = await world.enqueue_some(20, "quick")
            await asyncio.sleep(seconds)
            resolves.touch()
            await world.all_final(ids, timeout=30)
        took = time.monotonic() - began
        verdict = await judge(world)
        verdict.expect(verdict_before, "the worker gave up on a name that did not resolve yet")
        _quiet(verdict, [worker], {}, took)
        return stage.row(verdict, check="a name that does not resolve", injected=f"twice for {seconds:.0f} s")


def _lines(worker: WorkerProcess) -> list[str]:
    """Return what a worker logged beyond what its tasks always say, as the events' names."""
    events = [json.loads(line)["event"] for line in worker.log().splitlines() if line.startswith("{")]
    return [event for event in events if event not in OF_TASKS]


def _quiet(verdict: Verdict, workers: list[WorkerProcess], before: Mapping[str, int], took: float) -> None:
    """Note who said more than a line a second, crashed, or wrote a traceback."""
    verdict.violations += tracebacks(workers)
    for worker in workers:
        said = _lines(worker)[before.get(worker.name, 0) :]
        text = f"{worker.name} wrote {len(said)} lines in {took:.0f} s: {said[:20]}"
        verdict.expect(len(said) < max(took, 5.0) * LINES_PER_S, text)
        verdict.expect(worker.running, f"{worker.name} ended with {worker.process.returncode}")
