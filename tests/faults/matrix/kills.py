"""Workers that die: kill -9 under load, and before and after every command of a worker's life."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Sequence
from typing import Final, Literal

from tests.faults.chaos import ChaosProxy
from tests.faults.crashing import Crash
from tests.faults.fleet import READY_S, now_ns
from tests.faults.ledger import Disturbance
from tests.faults.matrix.family import Row, family
from tests.faults.matrix.invariants import judge
from tests.faults.matrix.load import Load
from tests.faults.matrix.rows import expect_nothing_mended, expect_recovery, summed, together
from tests.faults.matrix.stage import FaultWorld, Stage
from tests.faults.rules import Callback, Command, Watch, of_pid
from tests.waiting import eventually

LIFE_S: Final = 60.0
"""The longest that a life of about two seconds may take."""
TOGETHER: Final = 5
LEASE: Final = "5s"
"""Every heartbeat waits for the proxy and for this process, which may have other things to do for a second."""

Side = Literal["before", "after"]


@family("T-L4", "kill -9 of a random worker under load", share_s=60)
async def random_kills(stage: Stage) -> list[Row]:
    server = stage.server()
    world = await stage.world(server.url, workers=4)
    kills = stage.times(full=100, share=4)
    crashes: list[Crash] = []
    async with Load(world, stage.random) as load:
        for number in range(kills):
            await asyncio.sleep(stage.random.uniform(0.1, 0.5))
            ready = await eventually(lambda: _ready(world, 2), READY_S, what="two workers are ready")
            victim = stage.random.choice(ready)
            killed_ns = now_ns()
            crashes += [Crash("", pid, killed_ns, ()) for pid in world.kill9(victim)]
            world.fleet.spawn(f"w{number + 5}")
        await asyncio.sleep(0.5)
    verdict = await judge(world)
    expect_nothing_mended(verdict, world)
    expect_recovery(verdict, crashes)
    return [stage.row(verdict, injected=f"{kills} kills", note=f"{load.unknown} enqueues of unknown outcome")]


def _ready(world: FaultWorld, least: int) -> list[str]:
    """Return who takes work, by the logs; nobody while they are too few."""
    names = [worker.name for worker in world.fleet if worker.running and '"worker.ready"' in worker.log()]
    return names if len(names) >= least else []


class Life:
    """One worker from its start to its end: it fetches, runs, reports, retries, beats, settles, drains and leaves.

    Attributes:
        killed_at: the command at which it died; None if it came to its end.
        commands: how many it sent.
    """

    def __init__(self, world: FaultWorld, proxy: ChaosProxy, queue: str) -> None:
        self._world = world
        self._proxy = proxy
        self._queue = queue
        self.killed_at: str | None = None
        self.commands = 0

    async def live(self, k: int = 0, side: Side = "before") -> None:
        """Live; die before the k-th command reaches the server, or after it was done and before its answer goes on."""
        world, queue = self._world, self._queue
        tasks = [
            await world.enqueue("report", queue=queue, seconds=1.0),
            await world.enqueue("flaky", queue=queue, failures=1),
            await world.enqueue("thread_nap", queue=queue, seconds=0.05),
            await world.enqueue("quick", queue=queue),
            await world.enqueue("raising", queue=queue),
            await world.enqueue("quick", queue=queue, delay=0.2),
        ]
        worker = world.fleet.spawn(queue, queues=(queue,), env={"STEM_BROKER_URL": self._proxy.url})

        async def kill(number: int, command: Command) -> bool:
            if number == k and worker.running:
                world.disturbances.append(Disturbance(time.monotonic_ns(), 2**63, frozenset([worker.pid])))
                worker.kill9()
                self.killed_at = command.name
            return worker.running

        nobody: Callback | None = None
        before, after = (kill, nobody) if side == "before" else (nobody, kill)
        watch = Watch(before=before, after=after, where=of_pid(worker.pid))

        async def ended() -> bool:
            statuses = await world.broker.statuses(tasks, timeline=False)
            return not worker.running or all(status is not None and status.state.final for status in statuses)

        with self._proxy.having(watch):
            assert worker.running
            await eventually(ended, LIFE_S, what=f"the end of {queue} or of its tasks")
            if worker.running:
                worker.send(signal.SIGTERM)
            code = await worker.exit_code(LIFE_S)
        self.commands = watch.seen
        expected = 0 if self.killed_at is None else -signal.SIGKILL
        assert code == expected, f"{queue} ended with {code}, not {expected}:\n{worker.log()[-3000:]}"


@family("T-F1b", "kill -9 of a worker before and after each command of its life", share_s=120, full_s=900)
async def at_each_command(stage: Stage) -> list[Row]:
    server = stage.server()
    killed: Counter[str] = Counter()
    doors = asyncio.Semaphore(TOGETHER)

    async def play(proxy: ChaosProxy, share: Sequence[tuple[int, Side]]) -> Row:
        world = await stage.world(server.url, STEM_VISIBILITY_TIMEOUT=LEASE)
        lives = [Life(world, proxy, f"life-{number}") for number in range(len(share))]

        async def one(life: Life, k: int, side: Side) -> None:
            async with doors:
                await life.live(k, side)

        await asyncio.gather(*(one(life, k, side) for life, (k, side) in zip(lives, share, strict=True)))
        killed.update(life.killed_at for life in lives if life.killed_at is not None)
        await world.worker("heir", queues=[f"life-{number}" for number in range(len(share))])
        verdict = await judge(world)
        expect_nothing_mended(verdict, world)
        world.fleet.close()
        return stage.row(verdict, injected="")

    async with ChaosProxy(server.url, server.folder / "p") as proxy:
        world = await stage.world(server.url, STEM_VISIBILITY_TIMEOUT=LEASE)
        whole = Life(world, proxy, "whole")
        await whole.live()
        assert whole.killed_at is None
        assert whole.commands > 20, "a life without commands proves nothing"
        sides: tuple[Side, ...] = ("before", "after")
        moments = [(k, side) for k in range(1, whole.commands + 1) for side in sides]
        # Each once, and some again: no two lives send quite as many commands, and the last ones are not always reached.
        again = stage.random.sample(moments, stage.times(full=20, share=6))
        chosen = moments + again if stage.scale == "full" else again
        shares = [chosen[first : first + TOGETHER] for first in range(0, len(chosen), TOGETHER)]
        rows = await together([play(proxy, share) for share in shares])
    most = ", ".join(f"{name} {count}" for name, count in killed.most_common())
    return [summed(rows, injected=f"{killed.total()} kills over {whole.commands} commands", note=f"at {most}")]
