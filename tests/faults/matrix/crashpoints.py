"""Processes that kill themselves at named points: each point alone, and two in a row over the same tasks."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from stem.client import Stem
from stem.contracts import FetchRequest
from stem.messages.status import TaskState
from tests.faults import crashing
from tests.faults.crashing import CRASH_VARIABLE, CRASHES_VARIABLE, POINTS, Crash, Point
from tests.faults.fleet import LEASE_S, ROOT, WorkerProcess
from tests.faults.ledger import LEDGER_VARIABLE, PARENT_VARIABLE, Disturbance
from tests.faults.matrix.family import Row, family
from tests.faults.matrix.invariants import Verdict, judge
from tests.faults.matrix.rows import SWEEP_S, expect_nothing_mended, expect_recovery, summed, together
from tests.faults.matrix.stage import FaultWorld, Stage
from tests.waiting import eventually

APP: Final = "tests.faults.crashing:app"
REACHED_S: Final = 60.0
"""How long a process may take to come by its point; it takes about half a second."""
ASIDE: Final = "aside"
"""A queue that the heirs of a world do not take from."""
GHOST: Final = "ghost"
"""Holds tasks and has never beaten."""
BURST: Final[Sequence[tuple[str, dict[str, Any]]]] = (
    *(("quick", {}),) * 4,
    *(("nap", {"seconds": 0.1}),) * 4,
    ("thread_nap", {"seconds": 0.05}),
    *(("flaky", {"failures": 1}),) * 2,
    ("again", {"countdown": 0.1}),
    ("raising", {}),
)


class Theatre:
    """One world in which processes die at points, one after the other, while other workers stay.

    Attributes:
        buried: how many tasks met three of the deaths.
        complaints: what was not as it should be meanwhile.
    """

    def __init__(self, stage: Stage, world: FaultWorld, folder: Path) -> None:
        self.world = world
        self._random = random.Random(stage.random.random())
        self._crashes = folder / "crashes"
        self._aside: set[str] = set()
        self._left: list[str] = []
        self._spawned = 0
        self.crashes: list[Crash] = []
        self.buried = 0
        self.complaints: list[str] = []

    async def kill_at(self, point: Point, *, patience_s: float = 0.0) -> None:
        """Let one process die at this point, and see that it did.

        Args:
            patience_s: how long to leave it to what is in the queues already, before more is enqueued.
        """
        spec = f"{point.name}:{self._random.randint(1, point.most)}"
        if point.scene == "producer":
            await self._kill_producer(point, spec)
            return
        self._spawned += 1
        queues = ["default", ASIDE] if point.scene == "control" else ["default"]
        if point.scene == "sweep":
            queues.append(await self._leave_something_to_sweep())
        env = {CRASH_VARIABLE: spec, CRASHES_VARIABLE: str(self._crashes)}
        worker = self.world.fleet.spawn(f"doomed-{self._spawned}", queues=tuple(queues), env=env, app=APP)
        match point.scene:
            case "load":
                await self._offer_work(worker, spec, patience_s)
            case "drain":
                # To die with tasks in flight, it must still have some when a busy machine lets it see the signal.
                await self._drain(worker, nap_s=1.0 if point.name == "P13" else 0.3)
            case "control":
                await self._pause(worker, spec)
        self._note(point, worker.pid, await worker.exit_code(REACHED_S), worker.log())

    def _note(self, point: Point, pid: int, code: int, log: str) -> None:
        found = [crash for crash in crashing.read_crashes(self._crashes) if crash.pid == pid]
        if code != -signal.SIGKILL or [crash.point for crash in found] != [point.name]:
            raise AssertionError(f"no death at {point.name} ({point.what}): exit code {code}, {found}\n{log[-3000:]}")
        self.crashes += found
        self.world.disturbances.append(Disturbance(found[0].at_ns, 2**63, frozenset([pid])))

    # ------------------------------------------------------------------------------------------------------- scenes

    async def _offer_work(self, worker: WorkerProcess, spec: str, patience_s: float) -> None:
        deadline = time.monotonic() + REACHED_S
        more_at = time.monotonic() + patience_s
        await self._until_ready(worker)
        while worker.running:
            if time.monotonic() > deadline:
                raise AssertionError(f"it never came by {spec}\n{worker.log()[-3000:]}")
            if time.monotonic() >= more_at:
                await self.burst(60 if spec.startswith("P6b") else 0)
                more_at = time.monotonic() + 0.2
            await asyncio.sleep(0.01)

    async def _until_ready(self, worker: WorkerProcess) -> None:
        """Wait until it takes work or is dead; by its log, as the heartbeats of all the dead are many to ask for."""
        await eventually(
            lambda: '"worker.ready"' in worker.log() or not worker.running, REACHED_S, what=f"{worker.name} is ready"
        )

    async def burst(self, quick: int = 0) -> None:
        """Enqueue a dozen of all kinds, and so many quick ones."""
        tasks = [*BURST, *(("quick", {}),) * quick]
        self._random.shuffle(tasks)
        await asyncio.gather(*(self.world.enqueue(name, **args) for name, args in tasks))

    async def _leave_something_to_sweep(self) -> str:
        """A worker that nobody hears from holds tasks, and nobody else is there to take them from its queue.

        Returns:
            the queue, one of its own: in one for all, what earlier points had left there would come first.
        """
        queue = f"{ASIDE}-{self._spawned}"
        self._left.append(queue)
        wanted = {await self._aside_task(queue) for _ in range(3)}
        request = FetchRequest(queues=[queue], count=10, lease_ms=50, epoch=2**53)
        taken = await self.world.broker.exchange(GHOST, [], request)
        got = {one.id for one in taken.deliveries}
        assert got == wanted, f"{GHOST} was given {got}, not {wanted}"
        return queue

    async def _aside_task(self, queue: str = ASIDE) -> str:
        task_id = await self.world.enqueue("quick", queue=queue)
        self._aside.add(task_id)
        return task_id

    async def _drain(self, worker: WorkerProcess, *, nap_s: float) -> None:
        await self._until_ready(worker)
        naps: set[str] = set()

        def begun() -> bool:
            # One of these: at what came before them, it may have nothing left in flight by the time it sees the signal.
            lines = self.world.ledger.read().lines
            return any(line.kind == "start" and line.id in naps and line.pid == worker.pid for line in lines)

        deadline = time.monotonic() + REACHED_S
        while not begun():
            if time.monotonic() > deadline:
                raise AssertionError(f"{worker.name} has begun no nap\n{worker.log()[-3000:]}")
            # And more of them where others were quicker.
            naps.update(await asyncio.gather(*(self.world.enqueue("nap", seconds=nap_s) for _ in range(16))))
            with contextlib.suppress(AssertionError):
                await eventually(begun, 2 * nap_s)
        worker.send(signal.SIGTERM)

    async def _pause(self, worker: WorkerProcess, spec: str) -> None:
        """What is paused stays paused, whoever dies over it."""
        world = self.world
        await self._until_ready(worker)
        await world.controller.pause("queue", [ASIDE], wait_s=5)
        held = await self._aside_task()
        self._spawned += 1
        marker_queue = f"marker-{self._spawned}"
        relief = world.fleet.spawn(f"relief-{self._spawned}", queues=(ASIDE, marker_queue))
        marker = await world.enqueue("quick", queue=marker_queue)
        self._aside.add(marker)
        await world.reaches(marker, TaskState.SUCCEEDED, timeout=REACHED_S)
        if world.ledger.read().starts(held):
            self.complaints.append(f"{held} started while its queue was paused, after {spec}")
        await world.controller.resume("queue", [ASIDE], wait_s=5)
        await world.reaches(held, TaskState.SUCCEEDED, timeout=REACHED_S)
        relief.send(signal.SIGTERM)
        if (code := await relief.exit_code(REACHED_S)) != 0:
            self.complaints.append(f"{relief.name} ended with {code} after {spec}")

    async def _kill_producer(self, point: Point, spec: str) -> None:
        """A producer dies over an enqueue; another one repeats it with the same id."""
        world = self.world
        task_id = f"repeated-{random.Random(self._random.random()).getrandbits(64):x}"
        world.ledger.write("tried", task_id)
        env = {
            **{key: value for key, value in os.environ.items() if not key.startswith("STEM_")},
            "STEM_BROKER_URL": world.url,
            "STEM_NAMESPACE": world.namespace,
            CRASH_VARIABLE: spec,
            CRASHES_VARIABLE: str(self._crashes),
            LEDGER_VARIABLE: str(world.fleet.folder / "ledger"),
            PARENT_VARIABLE: str(os.getpid()),
        }
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.faults.crashing", task_id),
            env=env,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(REACHED_S):
                _, said = await process.communicate()
        except TimeoutError:
            process.kill()
            raise AssertionError(f"the producer did not die at {spec}") from None
        assert process.returncode is not None
        self._note(point, process.pid, process.returncode, said.decode(errors="replace"))
        known = await world.broker.statuses([task_id], timeline=False)
        sent = point.when == "after"
        if (known[0] is not None) != sent:
            self.complaints.append(f"{task_id} is {'un' if sent else ''}known after the death at {spec}")
        async with Stem.connect(world.url, namespace=world.namespace, registry=crashing.app.registry) as another:
            await another.enqueue("fault.quick", {}, task_id=task_id)
        world.ledger.write("acked", task_id)

    # -------------------------------------------------------------------------------------------------------- verdict

    async def verdict(self, *, heirs: bool = True) -> Verdict:
        """Let a last worker finish everything, and judge.

        Args:
            heirs: others were there all along, so that nothing had to wait for somebody to come.
        """
        await self.world.worker("last", queues=("default", ASIDE, *self._left))
        verdict = await judge(self.world, keys=False)
        await self.world.broker.leave(GHOST, self._left)
        expect_nothing_mended(verdict, self.world)
        verdict.violations += self.complaints
        for task_id, status in verdict.statuses.items():
            if status.reason == "poison" and status.crashes < 3:
                verdict.violations.append(f"{task_id} was buried after {status.crashes} crashes")
        self.buried = sum(status.reason == "poison" for status in verdict.statuses.values())
        if heirs:
            expect_recovery(verdict, self.crashes, aside=self._aside)
        return verdict


async def _theatre(stage: Stage, url: str) -> Theatre:
    world = await stage.world(url)
    return Theatre(stage, world, world.fleet.folder)


@family("T-F1a", "kill -9 of a process at each crash point", share_s=240, full_s=2_400)
async def at_each_point(stage: Stage) -> list[Row]:
    for point in POINTS.values():
        crashing.find(point)
    kills = [point for point in POINTS.values() for _ in range(stage.times(full=20, share=1))]
    stage.random.shuffle(kills)
    url = stage.server().url

    theatres: list[Theatre] = []

    async def play(share: Sequence[Point]) -> Row:
        theatre = await _theatre(stage, url)
        theatres.append(theatre)
        # Two, as of the tasks that met two deaths a worker takes one at a time: one alone would let them queue for it.
        await asyncio.gather(*(theatre.world.worker(f"heir-{side}", concurrency=2) for side in (1, 2)))
        for point in share:
            await theatre.kill_at(point)
        return stage.row(await theatre.verdict(), injected="")

    worlds = stage.times(full=6, share=4)
    rows = await together([play(kills[first::worlds]) for first in range(worlds)])
    buried = sum(theatre.buried for theatre in theatres)
    note = f"buried after meeting three of the kills: {buried}; the points of a child, P17, are another check"
    return [summed(rows, injected=f"{len(kills)} kills at {len(POINTS)} points", note=note)]


@family("T-F1c", "kill -9 at two crash points in a row", share_s=120, full_s=1_200)
async def at_two_points(stage: Stage) -> list[Row]:
    places = [point for point in POINTS.values() if point.scene in ("load", "drain", "start")]
    pairs = [stage.random.choices(places, k=2) for _ in range(stage.times(full=40, share=2))]
    url = stage.server().url
    doors = asyncio.Semaphore(6)

    async def play(pair: Sequence[Point]) -> Row:
        async with doors:
            theatre = await _theatre(stage, url)
            await theatre.burst()
            await theatre.kill_at(pair[0])
            await theatre.kill_at(pair[1], patience_s=LEASE_S + SWEEP_S)
            row = stage.row(await theatre.verdict(heirs=False), injected="")
            row.violations = [f"{pair[0].name}, {pair[1].name}: {text}" for text in row.violations]
            theatre.world.fleet.close()
            return row

    rows = await together([play(pair) for pair in pairs])
    return [summed(rows, injected=f"{2 * len(pairs)} kills, {len(pairs)} pairs")]
