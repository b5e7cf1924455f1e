"""Answers that never come, although the server did what was asked: each in turn, and five in a hundred at random."""

from __future__ import annotations

import asyncio
import contextlib
import time
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Final

from tests.faults.chaos import ChaosProxy
from tests.faults.fleet import WorkerProcess
from tests.faults.matrix.exercises import BROKEN, EXERCISES, Cast, again
from tests.faults.matrix.family import Row, family
from tests.faults.matrix.invariants import judge
from tests.faults.matrix.load import Load
from tests.faults.matrix.stage import Stage
from tests.faults.resp import scripts
from tests.faults.rules import Loss
from tests.waiting import eventually

LEASE: Final = "10s"
"""Long enough that no lease runs out on a slow machine: a lost answer alone must cost no second start."""
LOST_WITHIN_S: Final = 15.0
SILENT_S: Final = 240.0
"""For one exercise, whose every command may run into its time-out."""
LAST: Final = "comes_and_goes"
SHARE: Final = 0.05


@asynccontextmanager
async def _cast(stage: Stage, *, workers: int = 2) -> AsyncIterator[tuple[ChaosProxy, Cast]]:
    server = stage.server(aof=False)
    async with ChaosProxy(server.url, server.folder / "p", seed=stage.seed) as proxy:
        world = await stage.world(server.url, STEM_BROKER_URL=proxy.url, STEM_VISIBILITY_TIMEOUT=LEASE)
        names = [f"w{n + 1}" for n in range(workers)]
        cast = Cast(world, proxy.url, await world.workers(*names, queues=("default", "aside")))
        try:
            yield proxy, cast
        finally:
            await cast.close()


@family("T-F6", "each answer lost in turn, after the server did what was asked", share_s=120, full_s=1_800)
async def each_answer(stage: Stage) -> list[Row]:
    async with _cast(stage) as (proxy, cast):
        sent_by = await _who_sends_what(proxy, cast)
        names = sorted(set().union(*sent_by.values()))
        problems = [f"no exercise sends the script {name}" for name in sorted(set(scripts().values()) - set(names))]
        lost = 0
        for together in _in_turn(stage, names, sent_by):
            began = time.monotonic()
            for _ in range(stage.times(full=20, share=1)):
                problems += await _lose(proxy, cast, together, sent_by)
                lost += len(together)
            if stage.scale == "full":
                stage.say(f"{', '.join(together)}: {time.monotonic() - began:.1f} s")
        if stage.scale == "full":
            lost += len(names)
            problems += await _all_silent(proxy, cast, names)
        verdict = await judge(cast.world, forgiven=cast.forgiven, counts=False)
        verdict.violations += problems + tracebacks(cast.world.fleet)
        ended, asked = await _ends_counted(cast), len(verdict.account.ids("acked")) + cast.replayed
        verdict.expect(ended == asked, f"{ended} ends are counted by the server, {asked} were asked for")
        return [stage.row(verdict, injected=f"{lost} answers to {len(names)} scripts and commands")]


async def _who_sends_what(proxy: ChaosProxy, cast: Cast) -> dict[str, Counter[str]]:
    """Do every exercise once without a fault; return what was sent meanwhile, the cheapest exercise first."""
    # What only the first ones of all send, such as the schema's mark.
    first = Counter(proxy.seen)
    sent: dict[str, Counter[str]] = {}
    for name, exercise in EXERCISES.items():
        before = Counter(proxy.seen)
        await exercise(cast)
        sent[name] = proxy.seen - before
    sent[LAST] += first
    return sent


def _in_turn(stage: Stage, names: list[str], sent_by: dict[str, Counter[str]]) -> list[list[str]]:
    """Return what is lost one after the other: each by itself; in the share, what needs a worker's life together."""
    dear = [name for name in names if not any(sent_by[one][name] for one in sent_by if one != LAST)]
    if stage.scale == "full" or not dear:
        return [[name] for name in names]
    return [*([name] for name in names if name not in dear), dear]


async def _lose(proxy: ChaosProxy, cast: Cast, names: list[str], sent_by: dict[str, Counter[str]]) -> list[str]:
    """Lose the next answer to each of `names`, doing what sends them; say what went wrong."""
    losses = {name: Loss(name, nth={1}) for name in names}

    def missing() -> list[str]:
        return [name for name, loss in losses.items() if not loss.lost]

    with proxy.having(*losses.values()):
        for one in sent_by:
            if not any(sent_by[one][name] for name in missing()):
                continue
            try:
                await EXERCISES[one](cast)
            except BROKEN as error:
                return [f"{', '.join(names)} lost in {one}: {told(error)}"]
        with contextlib.suppress(AssertionError):
            await eventually(lambda: not missing(), LOST_WITHIN_S)
        return [f"no answer to {name} came that could be lost" for name in missing()]


async def _all_silent(proxy: ChaosProxy, cast: Cast, names: list[str]) -> list[str]:
    """Lose one answer of each kind at once, with the connection left open and silent: a time-out ends it."""
    losses = [Loss(name, nth={1}, then="silence") for name in names]
    problems: list[str] = []
    with proxy.having(*losses):
        for one, exercise in EXERCISES.items():
            try:
                async with asyncio.timeout(SILENT_S):
                    await exercise(cast)
            except BROKEN as error:
                problems.append(f"silence in {one}: {told(error)}")
    return problems


def told(error: BaseException) -> str:
    """Return what went wrong and where: outside of pytest, an assertion that failed says nothing by itself."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({last.name}, line {last.lineno}: {last.line})"


@family("T-F6b", "five answers in a hundred lost", share_s=90, full_s=900)
async def answers_at_random(stage: Stage) -> list[Row]:
    """Whoever asks whatever: one answer in twenty is lost, those to greetings included."""
    tasks = stage.times(full=20_000, share=500)
    async with _cast(stage, workers=3) as (proxy, cast):
        loss = Loss(share=SHARE)
        proxy.on(loss)
        over = asyncio.Event()
        operator = asyncio.create_task(_operate(cast, over))
        async with Load(cast.world, stage.random, per_s=None, producers=4, url=proxy.url) as load:
            await load.until(tasks, timeout=stage.times(full=800, share=60))
        over.set()
        asked = await operator
        proxy.off()
        verdict = await judge(cast.world)
        verdict.violations += tracebacks(cast.world.fleet)
        for script in ("enqueue", "exchange", "beat")[: stage.times(full=3, share=2)]:
            verdict.expect(proxy.lost[script] > 0, f"no answer to {script} was lost")
        return [
            stage.row(
                verdict,
                injected=f"{loss.lost} of {loss.seen} answers",
                note=f"{load.unknown} enqueues of unknown outcome; {asked} pings, each answered by all",
            )
        ]


async def _operate(cast: Cast, over: asyncio.Event) -> int:
    """Ping through the same weather until the load is over; each ping must hear from every worker."""
    asked = 0
    names = {worker.name for worker in cast.workers}
    while not over.is_set():
        ping = await again(cast.controller.ping)
        assert {pong.name for pong in ping.workers} == names, [silent.to_plain() for silent in ping.silent]
        asked += 1
        await asyncio.sleep(0.1)
    return asked


async def _ends_counted(cast: Cast) -> int:
    """Return how many ends the scripts counted where they recorded them."""
    totals: Counter[str] = Counter()
    for row in await cast.world.broker.census.minutes(180):
        totals.update(row.counts)
    return totals["succeeded"] + totals["failed"] + totals["revoked"] + totals["expired"]


def tracebacks(workers: Iterable[WorkerProcess]) -> list[str]:
    """Return what no worker may write, cut to the part that says where and what; the first few of each."""
    return [
        f"{one.name} wrote {text if len(text) < 1_000 else f'{text[:300]} … {text[-700:]}'}"
        for one in workers
        for text in one.tracebacks()[:3]
    ]
