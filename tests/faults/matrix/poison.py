"""Tasks that end the process which runs them, or wedge it: buried after three crashes, and the others live on."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from stem.messages.status import TaskState
from tests.faults.fleet import WorkerProcess
from tests.faults.ledger import Disturbance
from tests.faults.matrix.family import Row, family
from tests.faults.matrix.invariants import Verdict, judge
from tests.faults.matrix.load import Load
from tests.faults.matrix.rows import expect_nothing_mended, summed, together
from tests.faults.matrix.stage import FaultWorld, Stage
from tests.waiting import eventually

APP: Final = "tests.faults.deadly:app"
MAX_CRASHES: Final = 3
BURIED_S: Final = 120.0
SILENT_S: Final = 2.5
"""How long the supervisor bears with a worker that does not beat; it is lost after 1.2 s."""
HARMLESS: Final[Mapping[str, tuple[int, dict[str, Any]]]] = {
    "quick": (6, {}),
    "nap": (3, {"seconds": 0.1}),
    "thread_nap": (1, {"seconds": 0.05}),
}


@dataclass(frozen=True, slots=True)
class Poison:
    """One way to be deadly.

    Attributes:
        reason, error: what the dead letter says.
        crashes: how many the record counts; the runs are three in any case.
        ends: how the workers' processes end for it; -9 may be the supervisor's doing. None: they live on.
    """

    task: str
    args: Mapping[str, Any] = field(default_factory=dict)
    reason: str = "poison"
    error: str = "WorkerLostError"
    crashes: int = MAX_CRASHES
    ends: int | None = -9


KINDS: Final = {
    "SIGKILL of itself": Poison("die"),
    "os._exit": Poison("exit", ends=3),
    "segmentation fault": Poison("segfault", ends=-11),
    "out of memory": Poison("eat_memory"),
    "stack overflow": Poison("overflow_stack", ends=-11),
    "thread that keeps the interpreter lock": Poison("seize", {"seconds": 3600.0}),
    "blocked work loop": Poison("block_forever", ends=70),
    "thread past its time limit": Poison(
        "overstay", {"seconds": 4.0}, reason="failed", error="HardTimeLimitExceeded", crashes=0, ends=None
    ),
}


class Supervisor:
    """Starts workers again that end, as systemd or Kubernetes do, and ends those that do not beat any more.

    Attributes:
        ends: how workers ended, by exit code.
    """

    def __init__(self, world: FaultWorld, count: int) -> None:
        self._world = world
        self._count = count
        self._spawned = 0
        self._workers: list[WorkerProcess] = []
        self._since: dict[int, float] = {}
        self.ends: Counter[int] = Counter()

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        while len(self._workers) < self._count:
            self._spawn()
        for worker in self._workers:
            await self._world.ready(worker)
        watching = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching

    async def saw(self, ends: int) -> None:
        """Wait until so many workers have ended."""
        await eventually(lambda: self.ends.total() >= ends, BURIED_S, what=f"{ends} ends of workers, of {self.ends}")

    def _spawn(self) -> None:
        self._spawned += 1
        worker = self._world.fleet.spawn(f"w{self._spawned}", concurrency=6, app=APP)
        self._workers.append(worker)
        self._since[worker.pid] = time.monotonic()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(0.05)
            silent = {one.heartbeat.pid for one in await self._world.broker.presence.workers() if one.lost}
            for worker in list(self._workers):
                if worker.pid in silent and worker.running and time.monotonic() - self._since[worker.pid] > SILENT_S:
                    worker.kill9()
                if worker.pid not in silent and worker.running:
                    self._since[worker.pid] = time.monotonic()
                if not worker.running:
                    # It went a little before: what it has not recorded by now, it never will.
                    self._world.disturbances.append(Disturbance(time.monotonic_ns(), 2**63, frozenset([worker.pid])))
                    self.ends[worker.process.returncode] += 1
                    self._workers.remove(worker)
                    self._spawn()


async def _poisoned(stage: Stage, url: str, kind: str, times: int) -> Row:
    poison = KINDS[kind]
    world = await stage.world(url, STEM_WEDGED_TIMEOUT="2s")
    supervisor = Supervisor(world, 2)
    poisons: list[str] = []
    others = 0
    async with supervisor.at_work():
        for _ in range(times):
            async with Load(world, stage.random, per_s=15.0, mix=HARMLESS, producers=1) as load:
                # Those that run beside it all along: what it costs them is what this is about.
                await world.enqueue_some(4, "nap", seconds=1.0)
                poisons.append(await world.enqueue(poison.task, **poison.args))
                await world.reaches(poisons[-1], TaskState.FAILED, timeout=BURIED_S)
                # The last one may be buried while its worker still hangs, or is on its way out.
                if poison.ends is not None:
                    await supervisor.saw(MAX_CRASHES * len(poisons))
            others += load.acked + 4
            # One poison at a time: whoever is among the victims of several may meet three crashes by himself.
            await world.all_final(sorted(world.ledger.read().ids("acked")), timeout=BURIED_S)
        verdict = await judge(world)
    expect_nothing_mended(verdict, world)
    _look(verdict, poison, poisons, supervisor)
    world.fleet.close()
    return stage.row(verdict, injected="", note=f"{kind}: {_said(supervisor.ends)}, {others} others")


def _said(ends: Counter[int]) -> str:
    return ", ".join(f"exit {code} x {count}" for code, count in sorted(ends.items())) or "no worker ended"


def _look(verdict: Verdict, poison: Poison, poisons: list[str], supervisor: Supervisor) -> None:
    for task_id in poisons:
        status = verdict.statuses[task_id]
        starts = len(verdict.account.starts(task_id))
        verdict.expect(starts == MAX_CRASHES, f"{task_id} ({poison.task}) was started {starts} times")
        said = (status.reason, status.error.type if status.error else "", status.crashes)
        verdict.expect(
            said == (poison.reason, poison.error, poison.crashes),
            f"{task_id} ({poison.task}) is buried as {said}, not {(poison.reason, poison.error, poison.crashes)}",
        )
    for task_id, status in verdict.statuses.items():
        if task_id not in poisons and status.state is not TaskState.SUCCEEDED:
            verdict.violations.append(
                f"{task_id} ({status.task}) did nothing wrong and is {status.state.value}: {status.reason}, "
                f"{status.crashes} crashes"
            )
    ended = supervisor.ends.total()
    if poison.ends is None:
        verdict.expect(not ended, f"{poison.task} ended workers: {_said(supervisor.ends)}")
    else:
        expected = MAX_CRASHES * len(poisons)
        verdict.expect(
            supervisor.ends[poison.ends] == ended == expected,
            f"{poison.task} is to end {expected} workers with {poison.ends}: {_said(supervisor.ends)}",
        )


@family(
    "T-F5", "poison: a task that ends or wedges its worker is buried after three crashes", share_s=180, full_s=1_800
)
async def poison(stage: Stage) -> list[Row]:
    kinds = list(KINDS) if stage.scale == "full" else stage.random.sample(list(KINDS), 2)
    url = stage.server().url
    times = stage.times(full=10, share=1)
    doors = asyncio.Semaphore(4)

    async def play(kind: str) -> Row:
        async with doors:
            return await _poisoned(stage, url, kind, times)

    rows = await together([play(kind) for kind in kinds])
    return [summed(rows, injected=f"{times} x {len(kinds)} kinds of poison")]
