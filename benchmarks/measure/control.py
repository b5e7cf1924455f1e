"""How long an answer of the control channel takes: idle fleets, blocked and spinning work loops, the whole command."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from benchmarks.bench import Bench
from benchmarks.contestants import ROOT, Contestant, program
from benchmarks.figures import median
from benchmarks.rounds import Round, RoundError, round_of, say
from stem import Stem
from stem.adapters.connect import connect_broker
from stem.contracts import Broker
from stem.control.controller import Controller
from stem.control.diagnose import diagnose
from stem.observe.feed import Feed
from stem.observe.state import ClusterState

PINGS = 30
BUSY_S = 20.0


def stem_worker(*options: str) -> list[str]:
    return [sys.executable, "-m", "stem.worker.cli", "benchmarks.stem_peer:app", "--log-level", "error", *options]


def _stem(bench: Bench) -> Contestant:
    return next(each for each in bench.ours() if each.label == "stem")


def ping(bench: Bench) -> None:
    """Idle fleets of 5, 20 and 200 processes; celery's for comparison."""
    stem, sizes = _stem(bench), (5, 20, 200)
    bench.interleave("ping", [stem], lambda one: _fleets(one, sizes), rounds=1)
    tuned = [each for each in bench.best() if each.name == "celery"]
    for workers in (5, 20):
        bench.interleave(f"ping-{workers}", tuned, partial(_celery, bench, workers=workers), rounds=1)


def _fleets(one: Contestant, sizes: Sequence[int]) -> dict[str, float]:
    found = {}
    for workers in sizes:
        with round_of(one) as here:
            here.start(stem_worker("--processes", str(workers)))
            found[f"ping-{workers}"] = median(asyncio.run(pings(here.server.url, workers)))
    return found


async def pings(url: str, workers: int, *, settle_s: float = 1.0, times: int = PINGS) -> list[float]:
    """Wait until all workers answer and have come to rest, then ping."""
    broker = connect_broker(url)
    try:
        controller = Controller(broker)
        await _await_workers(controller, workers)
        await asyncio.sleep(settle_s)
        took = []
        for _ in range(times):
            begin = time.perf_counter()
            answer = await controller.ping()
            took.append((time.perf_counter() - begin) * 1000)
            if answer.replied != workers:
                raise RoundError(f"{answer.replied} of {workers} workers answered")
            await asyncio.sleep(0.02)
        return took
    finally:
        await broker.close()


async def _await_workers(controller: Controller, workers: int) -> None:
    deadline = time.monotonic() + 30 + workers
    while (found := (await controller.ping()).replied) < workers:
        if time.monotonic() > deadline:
            raise RoundError(f"{found} of {workers} workers were there in time")
        await asyncio.sleep(0.2)


def _celery(bench: Bench, one: Contestant, *, workers: int) -> dict[str, float]:
    """Ping as it comes, and once more told how many answers there will be: that is an entry of its own."""
    with round_of(one) as here:
        here.start(*([*one.work, "--hostname", f"w{number}@bench"] for number in range(workers)))
        line = [program("celery", "python"), "-m", "benchmarks.peers.celery_ping", str(workers), "10"]
        done = subprocess.run(line, env=here.env, cwd=ROOT, capture_output=True, text=True, timeout=120)
        if done.returncode:
            raise RoundError(done.stderr.strip()[-300:])
        said = json.loads(done.stdout)
        told = replace(one, variant="told the count")
        row, took = f"ping-{workers}", median(said["told"])
        bench.result.add(row, label=told.label, name=told.name, variant=told.variant, value=took)
        say(f"{row} {told.label}: {took:,.5g}")
        return {row: median(said["untold"])}


def busy(bench: Bench) -> None:
    """Ping workers whose work loops stand still, and such whose work loops spin on every core there is."""
    for row, task, workers in (("ping-sleep", "block", 5), ("ping-spin", "spin", 2)):
        bench.interleave(row, [_stem(bench)], partial(_busy, row=row, task=task, workers=workers))


def _busy(one: Contestant, row: str, task: str, workers: int) -> dict[str, float]:
    with round_of(one) as here:
        here.start(stem_worker("--processes", str(workers), "--concurrency", "1"))
        took = asyncio.run(_pings_busy(here.server.url, task, workers))
        return {row: median(took)}


async def _pings_busy(url: str, task: str, workers: int) -> list[float]:
    """Give every worker a handler that holds its work loop, see that all of them run, and ping meanwhile."""
    app = Stem.connect(url)
    broker = connect_broker(url)
    try:
        await _await_workers(Controller(broker), workers)
        await app.enqueue_many([(task, {"seconds": BUSY_S})] * workers)
        deadline = time.monotonic() + 10
        while sum(row.in_flight for row in await broker.census.queues()) < workers:
            if time.monotonic() > deadline:
                raise RoundError("not every worker took a handler that blocks")
            await asyncio.sleep(0.05)
        return await pings(url, workers, settle_s=0.5)
    finally:
        await broker.close()
        await app.close()


def command(bench: Bench) -> None:
    """`stemctl ping` against one worker, interpreter start and all; `celery inspect ping` for comparison."""
    bench.interleave("stemctl-ping", [_stem(bench)], lambda one: {"stemctl-ping": _command(one, STEMCTL)}, rounds=1)
    tuned = [each for each in bench.best() if each.name == "celery"]
    line = [program("celery", "celery"), "-A", "benchmarks.peers.celery_peer:app", "inspect", "ping"]
    bench.interleave("stemctl-ping", tuned, lambda one: {"stemctl-ping": _command(one, line, times=5)}, rounds=1)


STEMCTL = [sys.executable, "-m", "stemctl", "ping"]


def _command(one: Contestant, line: Sequence[str], *, times: int = 15) -> float:
    with round_of(one, step=1) as here:
        here.produce("fill", "mark", 1)
        here.start(one.work)
        here.await_runs(1)
        return median([timed(here, line) for _ in range(times + 1)][1:])


def timed(here: Round, line: Sequence[str]) -> float:
    """Run a command to its end and return the milliseconds it took."""
    begin = time.perf_counter()
    done = subprocess.run(line, env=here.env, cwd=ROOT, capture_output=True, text=True, timeout=60)
    took = (time.perf_counter() - begin) * 1000
    if done.returncode:
        raise RoundError(f"{' '.join(line[-2:])} ended with {done.returncode}: {done.stderr.strip()[-300:]}")
    return took


async def looks(urls: Mapping[str, str], *, times: int = 60) -> dict[str, dict[str, float]]:
    """Return the median milliseconds of what an operator asks for: queues, stats, ping, a dashboard's snapshot.

    By row, and by the name of each server, which are asked in turn, so that a disturbance hits all of them.
    """
    brokers = {name: connect_broker(url) for name, url in urls.items()}
    try:
        controllers = {name: Controller(broker) for name, broker in brokers.items()}
        for controller in controllers.values():
            await _await_workers(controller, 1)
        asked: dict[str, Callable[[str], Awaitable[object]]] = {
            "full-queues": lambda name: brokers[name].census.queues(),
            "full-stats": lambda name: controllers[name].stats(),
            "full-ping": lambda name: controllers[name].ping(),
            "full-snapshot": lambda name: _snapshot(brokers[name]),
        }
        found = {}
        for row, ask in asked.items():
            took: dict[str, list[float]] = {name: [] for name in urls}
            for turn in range(times + 2):
                for name in sorted(urls, reverse=bool(turn % 2)):  # who comes after whom is not always the same
                    begin = time.perf_counter()
                    await ask(name)
                    took[name].append((time.perf_counter() - begin) * 1000)
            found[row] = {name: median(each[2:]) for name, each in took.items()}
        return found
    finally:
        for broker in brokers.values():
            await broker.close()


async def _snapshot(broker: Broker) -> None:
    """Poll as the dashboard does when it has just been opened: all the history there is."""
    await Feed(broker, ClusterState(diagnose), watcher="bench", events=False).poll()
