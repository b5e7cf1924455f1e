"""Workers that stand still and come back: frozen by the system, blocked by a handler, held by C code; and restarts.

Whoever lost its lease meanwhile tries to settle, is refused, and stops what it still runs; whoever did not goes on as
if nothing had been. That a worker tried and was refused is read from its own log, what came of it from the ledger.
"""

from __future__ import annotations

import asyncio
import functools
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from tests.faults.fleet import WorkerProcess
from tests.faults.ledger import Account, Disturbance, Line
from tests.faults.matrix.family import Row, family
from tests.faults.matrix.invariants import Verdict, judge
from tests.faults.matrix.load import MIX, Load
from tests.faults.matrix.logbook import LOST, REFUSED, tasks_of
from tests.faults.matrix.stage import FaultWorld, Stage
from tests.waiting import eventually

LEASE_S: Final = 2.0
BEAT_S: Final = 0.2
SURELY_HELD: Final = 0.75
"""Of the lease: a stop that took longer than this although it was to be shorter says nothing (a stalled machine)."""
BACK_S: Final = 20.0
"""How long a worker may take to notice what it lost; far more than it needs."""
LONGER_S: Final = 2.0
"""For how long after a stop a handler goes on that nobody stops."""
DRAIN_S: Final = 25.0
GRACE_S: Final = 3.0


@dataclass(slots=True)
class Case:
    """One victim that stood still for `length` leases, and what it held then."""

    victim: WorkerProcess
    length: float
    ids: list[str] = field(default_factory=list)
    """Tasks whose handlers ended, or were due to, while it stood still: it comes back with their outcomes."""
    long: list[str] = field(default_factory=list)
    """Tasks that still ran when it came back."""
    conclusive: bool = True

    @property
    def robbed(self) -> bool:
        return self.length > 1


class Ward:
    """Victims with a queue of their own each, and rescuers who take over from all of them. All share the load."""

    def __init__(self, world: FaultWorld, victims: list[WorkerProcess], rescuers: list[WorkerProcess]) -> None:
        self.world = world
        self.victims = victims
        self.rescuers = rescuers

    @classmethod
    async def open(cls, stage: Stage, url: str, size: int) -> Ward:
        world = await stage.world(url, beat_s=BEAT_S, STEM_VISIBILITY_TIMEOUT=f"{round(LEASE_S * 1000)}ms")
        names = [f"v{number}" for number in range(1, size + 1)]
        victims = [world.fleet.spawn(name, queues=("default", name), concurrency=16) for name in names]
        rescuers = [world.fleet.spawn(name, queues=("default", *names)) for name in ("r1", "r2")]
        for worker in (*victims, *rescuers):
            await world.ready(worker)
        return cls(world, victims, rescuers)

    async def hand_out(self, cases: Sequence[Case], give: Callable[[Case], Awaitable[None]]) -> None:
        """Let each victim, and nobody else, start what `give` enqueues on its queue."""
        names = [worker.name for worker in self.rescuers]
        drained = await self.world.controller.drain(names)
        assert drained.applied == len(names), drained
        await asyncio.gather(*(give(case) for case in cases))
        await self.world.started(*(one for case in cases for one in (*case.ids, *case.long)), timeout=30)

    async def rescue(self) -> None:
        await self.world.controller.undrain([worker.name for worker in self.rescuers])

    async def everybody_answers(self) -> None:
        async def all_there() -> bool:
            return (await self.world.controller.ping([v.name for v in self.victims])).replied == len(self.victims)

        await eventually(all_there, BACK_S, what="every victim answers a ping")

    def stood_still(self, case: Case, begun_ns: int, end_ns: int) -> None:
        """Write down whether this one lost something, by how long it really stood still."""
        case.conclusive = case.robbed or (end_ns - begun_ns) / 1e9 < SURELY_HELD * LEASE_S
        if case.robbed or not case.conclusive:
            # What was on its way to it when it stopped begins when it is back.
            fault = Disturbance(begun_ns, end_ns + 1_000_000_000, frozenset([case.victim.pid]))
            self.world.disturbances.append(fault)


# ------------------------------------------------------------------------------------------------------------- SIGSTOP


@family("T-F2", "SIGSTOP of a worker for 0.5, 1.5 and 5 times its lease, then SIGCONT", share_s=90)
async def frozen_workers(stage: Stage) -> list[Row]:
    """A worker that lost its lease meanwhile settles nothing and stops what it runs; one that did not loses nothing."""
    plans = [[[length] * 10] * 3 for length in (0.5, 1.5, 5.0)] if stage.scale == "full" else [[[0.5, 1.5]]]
    return [await _freeze_all(stage, plan) for plan in plans]


async def _freeze_all(stage: Stage, plan: list[list[float]]) -> Row:
    ward = await Ward.open(stage, stage.server().url, max(map(len, plan)))
    cases: list[Case] = []
    async with Load(ward.world, stage.random, per_s=20, lease_s=LEASE_S):
        for lengths in plan:
            batch = [Case(victim, length) for victim, length in zip(ward.victims, lengths, strict=True)]
            await _freeze_batch(ward, batch)
            cases += batch
    verdict = await judge(ward.world)
    lengths = sorted({case.length for case in cases})
    said = " and ".join(f"{sum(case.length == one for case in cases)} of {one:g} leases" for one in lengths)
    return stage.row(verdict, injected=f"SIGSTOP: {said}", note=_examine(verdict, cases))


async def _freeze_batch(ward: Ward, batch: list[Case]) -> None:
    async def give(case: Case) -> None:
        brief_s = min(0.9 * case.length * LEASE_S, 2.0)
        queue = case.victim.name
        for end in ("return", "raise", "retry"):
            case.ids.append(await ward.world.enqueue("late", queue=queue, seconds=brief_s, end=end))
        case.long.append(await ward.world.enqueue("nap_first", queue=queue, seconds=case.length * LEASE_S + LONGER_S))

    async def freeze(case: Case) -> None:
        begun_ns = time.monotonic_ns()
        case.victim.freeze()
        await asyncio.sleep(case.length * LEASE_S)
        case.victim.thaw()
        ward.stood_still(case, begun_ns, time.monotonic_ns())

    await ward.hand_out(batch, give)
    frozen = [asyncio.create_task(freeze(case)) for case in batch]
    await asyncio.sleep(0)
    await ward.rescue()
    await asyncio.gather(*frozen)
    await ward.everybody_answers()
    await ward.world.all_final([one for case in batch for one in (*case.ids, *case.long)], timeout=60)


def _examine(verdict: Verdict, cases: Sequence[Case]) -> str:
    """Compare what victims did after they came back with what they may do; return the figures."""
    refused = stopped = 0
    for case in cases:
        if not case.conclusive:
            continue
        told = tasks_of(case.victim, REFUSED)
        dropped = tasks_of(case.victim, LOST)
        mine = {*case.ids, *case.long}
        refused += len(told & mine)
        stopped += len(dropped & mine)
        if case.robbed:
            _examine_robbed(verdict, case, told | dropped)
            continue
        verdict.expect(not (told | dropped) & mine, f"{case.victim.name} kept its lease and was refused")
        for task_id in mine:
            first = verdict.account.starts(task_id)[0]
            ends = [line.pid for line in _recorded(verdict.account, task_id)]
            verdict.expect(
                first.pid == case.victim.pid and ends[:1] == [case.victim.pid],
                f"{task_id}: the first run was {case.victim.name}'s, its end was recorded by {ends}",
            )
    robbed = [case for case in cases if case.robbed]
    # One whose handlers end while it stands still sends their outcomes before it hears that they are lost, usually.
    verdict.expect(
        2 * refused >= len(robbed) or len(robbed) < 5,
        f"of {len(robbed)} workers that lost their leases, {refused} late results came",
    )
    figures = [f"{refused} late results refused, {stopped} handlers stopped by their workers"] if robbed else []
    if stalled := sum(not case.conclusive for case in cases):
        figures.append(f"{stalled} say nothing (the machine stalled)")
    return "; ".join(figures)


def _examine_robbed(verdict: Verdict, case: Case, evidence: set[str]) -> None:
    account, pid = verdict.account, case.victim.pid
    for task_id in (*case.ids, *case.long):
        runs = account.starts(task_id)
        verdict.expect(runs[0].pid == pid and len(runs) > 1, f"{task_id} was not taken over from {case.victim.name}")
        verdict.expect(task_id in evidence, f"{task_id}: {case.victim.name} does not say that its run came to nothing")
        settled = [line.kind for line in _recorded(account, task_id) if line.pid == pid]
        later = [line for line in runs[1:] if line.pid == pid]  # it may get the task back, under a new token
        verdict.expect(not settled or bool(later), f"{task_id}: {case.victim.name} recorded {settled}")
    for task_id in case.long:
        cut = [line for line in account.of(task_id, "cut") if line.pid == pid]
        verdict.expect(bool(cut), f"{task_id} ran on {case.victim.name} to its end although the lease was lost")


def _recorded(account: Account, task_id: str) -> list[Line]:
    """Return what workers know the broker to have recorded of this task."""
    return [line for line in account.of(task_id) if line.kind == "retry" or line.kind.startswith("final:")]


# --------------------------------------------------------------------------------------------- blocked loop, held GIL


@family("T-F3", "work loop blocked, or the GIL held, for 0.5 to 3 leases", share_s=90)
async def stuck_workers(stage: Stage) -> list[Row]:
    """A blocked loop loses nothing: its thread renews. C code that holds the GIL too long loses its lease."""
    if stage.scale == "share":
        plays = [_stick_all(stage, handler, [[1.5]]) for handler in ("block", "hold_gil")]
        return list(await asyncio.gather(*plays))
    loops = [_lengths(stage, [(0.5, 3.0)]) for _ in range(2)]
    locks = [_lengths(stage, [(0.5, 0.6), (1.5, 3.0)]) for _ in range(2)]
    return [await _stick_all(stage, "block", loops), await _stick_all(stage, "hold_gil", locks)]


def _lengths(stage: Stage, ranges: list[tuple[float, float]]) -> list[float]:
    return [round(stage.random.uniform(*ranges[number % len(ranges)]), 2) for number in range(10)]


async def _stick_all(stage: Stage, handler: str, plan: list[list[float]]) -> Row:
    ward = await Ward.open(stage, stage.server().url, max(map(len, plan)))
    cases: list[Case] = []
    wedged = 0
    async with Load(ward.world, stage.random, per_s=20, lease_s=LEASE_S):
        for lengths in plan:
            batch = [Case(victim, length) for victim, length in zip(ward.victims, lengths, strict=True)]
            wedged += await _stick_batch(ward, batch, handler)
            cases += batch
    verdict = await judge(ward.world)
    span = f"{min(case.length for case in cases):g} to {max(case.length for case in cases):g} leases"
    if handler == "hold_gil":
        note, what = _examine(verdict, cases), "GIL held"
    else:
        note, what = f"{wedged} named wedged meanwhile", "loop blocked"
        for case in cases:
            for task_id in (*case.ids, *case.long):
                pids = [line.pid for line in verdict.account.starts(task_id)]
                verdict.expect(pids == [case.victim.pid], f"{task_id} beside a blocked loop was started by {pids}")
    return stage.row(verdict, injected=f"{what}: {len(cases)} workers for {span}", note=note)


async def _stick_batch(ward: Ward, batch: list[Case], handler: str) -> int:
    """Let each victim block itself; return how many of those blocked for long a ping named wedged meanwhile."""
    world = ward.world

    async def give(case: Case) -> None:
        queue, seconds = case.victim.name, case.length * LEASE_S
        if handler == "block":
            case.ids += await world.enqueue_some(3, "nap", queue=queue, seconds=0.9 * seconds)
            case.ids.append(await world.enqueue("polite_thread", queue=queue, seconds=seconds))
            return
        for end in ("return", "raise"):
            case.ids.append(await world.enqueue("late", queue=queue, seconds=min(0.9 * seconds, 2.0), end=end))
        case.long.append(await world.enqueue("nap_first", queue=queue, seconds=seconds + LONGER_S))

    await ward.hand_out(batch, give)
    stuck = await asyncio.gather(
        *(world.enqueue(handler, queue=case.victim.name, seconds=case.length * LEASE_S) for case in batch)
    )
    await world.started(*stuck)
    await ward.rescue()
    named: set[str] = set()
    if handler == "block":
        # A loop counts as wedged after 2 s: whoever is blocked for 5 s is named before it is over.
        await _named_wedged(ward, {case.victim.name for case in batch if case.length >= 2.5}, named)
    for case, task_id in zip(batch, stuck, strict=True):
        case.ids.append(task_id)
        run = await eventually(functools.partial(_run_of, world, case, task_id), BACK_S, what=f"{task_id} is over")
        if handler == "hold_gil" and run is not None:
            ward.stood_still(case, *run)
    await ward.everybody_answers()
    await world.all_final([one for case in batch for one in (*case.ids, *case.long)], timeout=60)
    return len(named)


async def _named_wedged(ward: Ward, long: set[str], named: set[str]) -> None:
    async def all_named() -> bool:
        answer = await ward.world.controller.ping([*long])
        named.update(pong.name for pong in answer.workers if pong.diagnosis == "wedged")
        return named >= long

    if long:
        await eventually(all_named, what=f"{sorted(long)} are named wedged")


def _run_of(world: FaultWorld, case: Case, task_id: str) -> tuple[int, int] | None:
    """Return begin and end of the victim's run, once it is over."""
    lines = [line for line in world.ledger.read().of(task_id, "start", "done") if line.pid == case.victim.pid]
    return (lines[0].at_ns, lines[1].at_ns) if len(lines) > 1 else None


# ------------------------------------------------------------------------------------------------------ rolling restart


@family("T-F17", "rolling restart of all workers under load", share_s=90)
async def rolling_restarts(stage: Stage) -> list[Row]:
    """SIGTERM costs nothing and ends with 0 in time; SIGKILL a second later costs what still ran, once."""
    half = stage.times(full=50, share=2)
    if stage.scale == "share":
        return list(await asyncio.gather(_roll(stage, half, kill=False), _roll(stage, half, kill=True)))
    return [await _roll(stage, half, kill=False), await _roll(stage, half, kill=True)]


async def _roll(stage: Stage, restarts: int, *, kill: bool) -> Row:
    # Some tasks are longer than what a worker gets between SIGTERM and SIGKILL.
    longer_s = 2.0 if kill else 1.2
    mix = dict(MIX) | {"polite_thread": (6, {"seconds": longer_s}), "late": (8, {"seconds": longer_s, "end": "return"})}
    world = await stage.world(stage.server().url, workers=stage.times(full=4, share=2))
    live = list(world.fleet)
    longest_s, killed, number = 0.0, 0, len(live)
    async with Load(world, stage.random, mix=mix):
        for done in range(0, restarts, 2):
            leaving, live = live[:2], live[2:]
            if done + 1 == restarts:
                leaving, live = leaving[:1], [*leaving[1:], *live]
            joining = [world.fleet.spawn(f"w{number + n + 1}") for n in range(len(leaving))]
            number += len(joining)
            took_s = await asyncio.gather(*(_end(world, worker, kill=kill) for worker in leaving))
            longest_s = max(longest_s, *took_s)
            killed += sum(worker.process.returncode == -signal.SIGKILL for worker in leaving)
            for worker in joining:
                await world.ready(worker)
            live += joining
    verdict = await judge(world)
    left = [worker for worker in world.fleet if not worker.running]
    if kill:
        # In the share it is up to chance: two workers, which may have nothing long to do.
        verdict.expect(killed > 0 or stage.scale == "share", "no worker was at work when SIGKILL came")
        return stage.row(verdict, injected=f"{restarts} times SIGTERM, SIGKILL 1 s later ({killed} still lived)")
    verdict.expect(not verdict.extra_starts, f"{verdict.extra_starts} starts more than there had to be")
    codes = {worker.name: worker.process.returncode for worker in left if worker.process.returncode}
    verdict.expect(not codes, f"exit codes: {codes}")
    traces = [worker.name for worker in left if worker.tracebacks()]
    verdict.expect(not traces, f"tracebacks in the logs of {traces}")
    verdict.expect(longest_s < DRAIN_S + GRACE_S + 2, f"one took {longest_s:.1f} s to end")
    return stage.row(verdict, injected=f"{restarts} times SIGTERM", note=f"exit 0 after at most {longest_s:.1f} s")


async def _end(world: FaultWorld, worker: WorkerProcess, *, kill: bool) -> float:
    """Stop a worker; return how long it took."""
    begun = time.monotonic()
    worker.send(signal.SIGTERM)
    if kill:
        await asyncio.sleep(1.0)
        world.kill9(worker.name)
    await worker.exit_code(DRAIN_S + GRACE_S + 10)
    return time.monotonic() - begun
