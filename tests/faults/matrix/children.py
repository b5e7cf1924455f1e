"""Child processes that die, hang, are killed, or lose their worker: that costs one task a run, and nothing stays."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from stem.messages.status import TaskState
from tests.faults import crashing
from tests.faults.childish import GRANDCHILDREN
from tests.faults.crashing import CHILD_POINTS, CRASH_VARIABLE, CRASHES_VARIABLE, Point
from tests.faults.fleet import WorkerProcess
from tests.faults.ledger import ENDS, Account, Disturbance
from tests.faults.matrix.family import Row, family
from tests.faults.matrix.invariants import Verdict, judge
from tests.faults.matrix.load import Load
from tests.faults.matrix.rows import expect_nothing_mended, summed, together
from tests.faults.matrix.stage import Stage
from tests.waiting import eventually

APP: Final = "tests.faults.childish:app"
CRASH_APP: Final = "tests.faults.crashing:app"
MAX_CRASHES: Final = 3
BURIED_S: Final = 120.0
REACHED_S: Final = 90.0
RECYCLED_S: Final = 60.0
ON_WORKER: Final = ("P17f", "P17g")
HARMLESS: Final[Mapping[str, tuple[int, dict[str, Any]]]] = {
    "child_quick": (6, {}),
    "child_nap": (3, {"seconds": 0.05}),
    "child_flaky": (1, {"failures": 1}),
    "quick": (4, {}),
}
LONGER: Final[Mapping[str, tuple[int, dict[str, Any]]]] = {**HARMLESS, "child_nap": (12, {"seconds": 0.5})}
"""So that a kill often meets a run."""
POISONS: Final[Mapping[str, tuple[str, str]]] = {
    "child_kill": ("was ended by SIGKILL", "poison"),
    "child_exit": ("ended with exit code 3", "poison"),
    "child_segfault": ("was ended by SIGSEGV", "poison"),
    "child_overflow": ("was ended by SIGSEGV", "poison"),
    "child_eat": ("was ended by SIGKILL", "poison"),
    "child_seize": ("time limit", "failed"),
}
"""Tasks, what their dead letters say, and their reason."""


def states(pids: Sequence[int]) -> dict[int, str]:
    """Return the state of each of these processes that is there (`Z`: a zombie)."""
    found = {}
    for pid in pids:
        with contextlib.suppress(OSError):
            found[pid] = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return found


def children_of(pid: int) -> list[int]:
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [int(word) for word in path.read_text().split()]
    return found


def expect_no_zombies(verdict: Verdict, worker: WorkerProcess) -> None:
    dead = [pid for pid, state in states(children_of(worker.pid)).items() if state == "Z"]
    verdict.expect(not dead, f"{worker.name} does not reap its children: {dead} are zombies")


# ------------------------------------------------------------------------------------------------------------- poison


async def _poisoned(stage: Stage, url: str, kind: str, times: int) -> Row:
    world = await stage.world(url)
    worker = await world.worker("w1", concurrency=4, app=APP)
    said, reason = POISONS[kind]
    poisons: list[str] = []
    async with Load(world, stage.random, per_s=15.0, mix=HARMLESS, producers=1) as load:
        for _ in range(times):
            poisons.append(await world.enqueue(kind))
            await world.reaches(poisons[-1], TaskState.FAILED, timeout=BURIED_S)
    for run in (line for task_id in poisons for line in world.ledger.read().starts(task_id)):
        world.disturbances.append(Disturbance(run.at_ns, 2**63, frozenset([run.pid])))
    verdict = await judge(world)
    expect_nothing_mended(verdict, world)
    for task_id, status in verdict.statuses.items():
        told = "" if status.error is None else status.error.message
        if task_id not in poisons:
            fine = status.state is TaskState.SUCCEEDED and status.crashes == 0
            verdict.expect(fine, f"{task_id} ({status.task}) did nothing wrong: {status.state.value}, {told}")
            continue
        crashes = MAX_CRASHES if reason == "poison" else 0
        starts = len(verdict.account.starts(task_id))
        verdict.expect(starts == MAX_CRASHES, f"{task_id} ({kind}) was started {starts} times")
        verdict.expect(
            (status.reason, status.crashes) == (reason, crashes) and said in told,
            f"{task_id} ({kind}) is buried as {status.reason}, {status.crashes} crashes: {told}",
        )
    verdict.expect(worker.running, f"{kind} ended its worker with {worker.process.returncode}")
    expect_no_zombies(verdict, worker)
    world.fleet.close()
    return stage.row(verdict, injected="", note=f"{kind}: {load.acked} others unharmed")


@family("T-W5", "a child that dies or hangs: its task is buried, its worker lives on", share_s=150, full_s=900)
async def poison(stage: Stage) -> list[Row]:
    kinds = list(POISONS) if stage.scale == "full" else stage.random.sample(list(POISONS), 2)
    url = stage.server().url
    times = stage.times(full=10, share=1)
    doors = asyncio.Semaphore(3)

    async def play(kind: str) -> Row:
        async with doors:
            return await _poisoned(stage, url, kind, times)

    return [summed(await together([play(kind) for kind in kinds]), injected=f"{times} x {len(kinds)} kinds of poison")]


# -------------------------------------------------------------------------------------------------------------- kills


@family("T-W5b", "kill -9 of random children under load, which are recycled too", share_s=120, full_s=600)
async def random_kills(stage: Stage) -> list[Row]:
    world = await stage.world(stage.server().url)
    started = [
        world.fleet.spawn(f"w{n}", concurrency=3, app=APP, options=("--max-tasks-per-child", "4")) for n in (1, 2)
    ]
    for worker in started:
        await world.ready(worker)
    kills, hit = stage.times(full=100, share=5), 0
    until_s = time.monotonic() + RECYCLED_S
    async with Load(world, stage.random, per_s=8.0, producers=1, mix=LONGER) as load:
        # On a slow machine every child may have been killed before its fourth task.
        while hit < kills or (not _recycled(started) and time.monotonic() < until_s):
            await asyncio.sleep(stage.random.uniform(0.3, 1.0))
            children = children_of(stage.random.choice(started).pid)
            if not children or hit >= kills:
                continue
            victim = stage.random.choice(children)
            world.disturbances.append(Disturbance(time.monotonic_ns(), 2**63, frozenset([victim])))
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
                hit += 1
    verdict = await judge(world)
    expect_nothing_mended(verdict, world)
    for worker in started:
        verdict.expect(worker.running, f"{worker.name} ended with {worker.process.returncode}")
        expect_no_zombies(verdict, worker)
    recycled = _recycled(started)
    verdict.expect(recycled > 0, "no child was recycled")
    return [stage.row(verdict, injected=f"{kills} kills", note=f"{recycled} recycled, {load.acked} tasks")]


# ------------------------------------------------------------------------------------------------------------ orphans


@family("T-W8", "kill -9 of a worker whose children have children: none stays", share_s=120, full_s=600)
async def orphans(stage: Stage) -> list[Row]:
    world = await stage.world(stage.server().url)
    family_book = world.fleet.folder / "grandchildren"
    kills, most_s = stage.times(full=40, share=2), 0.0
    left: dict[int, str] = {}
    for number in range(kills):
        worker = await world.worker(f"w{number}", concurrency=2, app=APP, env={GRANDCHILDREN: str(family_book)})
        family_book.unlink(missing_ok=True)
        await world.enqueue_some(2, "child_family", seconds=3600.0)

        def both() -> list[int]:
            words = family_book.read_text().split() if family_book.exists() else []
            return [int(word) for word in words] if len(words) == 4 else []

        pids = await eventually(both, REACHED_S, what="two children with a child each")
        pids += children_of(worker.pid)
        world.kill9(worker.name)
        killed_at = time.monotonic()
        with contextlib.suppress(AssertionError):
            await eventually(functools.partial(_none_living, pids), 20.0)
        most_s = max(most_s, time.monotonic() - killed_at)
        left |= _living(pids)
    await world.worker("last", concurrency=2, app=APP)
    verdict = await judge(world)
    expect_nothing_mended(verdict, world)
    verdict.expect(not left, f"processes outlived their worker: {left}")
    return [stage.row(verdict, injected=f"{kills} kills", note=f"all gone within {most_s:.2f} s")]


def _none_living(pids: Sequence[int]) -> bool:
    return not _living(pids)


def _living(pids: Sequence[int]) -> dict[int, str]:
    return {pid: state for pid, state in states(pids).items() if state not in "ZX"}


# ------------------------------------------------------------------------------------------------------- crash points


async def _killed_at(stage: Stage, url: str, points: Sequence[Point]) -> Row:
    """Let a child (or its worker, about a child) die at each of these points."""
    world = await stage.world(url)
    await world.worker("heir", concurrency=2, app=CRASH_APP)
    complaints: list[str] = []
    for number, point in enumerate(points):
        spec, crashes = f"{point.name}:{stage.random.randint(1, point.most)}", world.fleet.folder / f"crashes-{number}"
        env = {CRASH_VARIABLE: spec, CRASHES_VARIABLE: str(crashes)}
        doomed = await world.worker(f"doomed-{number}", concurrency=2, app=CRASH_APP, env=env)
        deadline = time.monotonic() + REACHED_S
        while not (found := crashing.read_crashes(crashes)):
            if time.monotonic() > deadline:
                raise AssertionError(f"nobody came by {spec}\n{doomed.log()[-3000:]}")
            await world.enqueue_some(3, "child_nap", seconds=0.3 if point.name == "P17f" else 0.05)
            if point.name == "P17f":
                for child in _at_work(world.ledger.read(), children_of(doomed.pid))[:1]:
                    world.disturbances.append(Disturbance(time.monotonic_ns(), 2**63, frozenset([child])))
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(child, signal.SIGKILL)
            await asyncio.sleep(0.2)
        world.disturbances.append(Disturbance(found[0].at_ns, 2**63, frozenset([found[0].pid])))
        if point.name not in ON_WORKER:
            doomed.send(signal.SIGTERM)
        code, expected = await doomed.exit_code(REACHED_S), -signal.SIGKILL if point.name in ON_WORKER else 0
        if code != expected or len(found) != 1:
            complaints.append(f"{spec}: the worker ended with {code}, not {expected}; {len(found)} deaths")
    verdict = await judge(world, keys=False)
    expect_nothing_mended(verdict, world)
    verdict.violations += complaints
    world.fleet.close()
    return stage.row(verdict, injected="")


def _at_work(account: Account, children: Sequence[int]) -> list[int]:
    """Return those that run a handler."""
    open_runs: Counter[int] = Counter()
    for line in account.lines:
        open_runs[line.pid] += (line.kind == "start") - (line.kind in ENDS)
    return [pid for pid in children if open_runs[pid] > 0]


@family("T-F1d", "kill -9 of a child at each point of its life, and of its worker about it", share_s=150, full_s=900)
async def at_each_point(stage: Stage) -> list[Row]:
    for point in CHILD_POINTS.values():
        crashing.find(point)
    kills = [point for point in CHILD_POINTS.values() for _ in range(stage.times(full=10, share=1))]
    stage.random.shuffle(kills)
    url, worlds = stage.server().url, stage.times(full=4, share=2)
    rows = await together([_killed_at(stage, url, kills[first::worlds]) for first in range(worlds)])
    names = ", ".join(f"{name} x {count}" for name, count in sorted(Counter(one.name for one in kills).items()))
    return [summed(rows, injected=f"{len(kills)} kills", note=names)]


def _recycled(workers: Sequence[WorkerProcess]) -> int:
    return sum(worker.log().count('"child.recycled"') for worker in workers)
