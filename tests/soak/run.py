"""Some minutes of load, control and faults, with an eye on what the processes hold: nothing may grow that must not.

Two workers live through it all; a third one is restarted and killed in turns, the server is killed and started again,
and one answer in a hundred is lost on the way. Before and afterwards it is quiet, and everything is counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final

import redis

from stem.errors import BrokerError, StemError
from stem.messages.envelope import new_task_id
from stem.messages.status import TaskState
from tests.faults.chaos import ChaosProxy
from tests.faults.fleet import WorkerProcess
from tests.faults.matrix.keyspace import strays
from tests.faults.matrix.load import Load
from tests.faults.matrix.stage import Stage
from tests.faults.rules import Loss
from tests.soak.gauges import ProcessSample, ServerSample, look_at_process, look_at_server
from tests.waiting import eventually

APP: Final = "tests.soak.app:app"
LONG: Final = ("long-1", "long-2")
LEASE_S: Final = 5.0
LOST: Final = 0.01
PRODUCERS: Final = 12
RESULT_TTL: Final = "10s"
"""Short, so that what is left afterwards is what nobody removes."""
DEAD_MAX: Final = "100"
SPARE: Final = 8
"""Connections, of each process, that the client library's pools keep because a burst needed them once."""
REMEMBERED: Final = 2_000
"""Commands that a worker remembers, so as to carry each out once: memory that is taken once, and not given back."""
LONG_S: Final = 300.0
QUIET_S: Final = 60.0
"""Within this after the load everything must be as it was before."""
KEPT: Final = ("--appendfsync", "no")  # see matrix/chaos_load.py


@dataclass
class Soaked:
    """What was measured.

    Attributes:
        samples: of each long-lived worker during the load, by its name; `census` what its process counted itself.
        began_s, ended_s: of the load, on the clock of the samples.
    """

    seconds: float
    tasks: int = 0
    lost: int = 0
    doubled: int = 0
    extra_starts: int = 0
    samples: dict[str, list[ProcessSample]] = field(default_factory=dict)
    census: dict[str, list[tuple[float, dict[str, int]]]] = field(default_factory=dict)
    settled: dict[str, list[dict[str, int]]] = field(default_factory=dict)
    before: dict[str, ProcessSample] = field(default_factory=dict)
    after: dict[str, ProcessSample] = field(default_factory=dict)
    server_before: ServerSample | None = None
    server_after: ServerSample | None = None
    memory: list[tuple[float, float]] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    revoked: int = 0
    quiet_after_s: float | None = None
    violations: list[str] = field(default_factory=list)


class Soak:
    """One soak. `play` runs it."""

    def __init__(self, stage: Stage, *, seconds: float, per_s: float) -> None:
        self._stage = stage
        self._random = random.Random(stage.seed)
        self._per_s = per_s
        self._short = 0
        self._out: list[WorkerProcess] = []
        self._revoked: list[str] = []
        self._recorded: set[str] = set()
        self._clock0 = time.monotonic()
        self.result = Soaked(seconds)

    @property
    def _now(self) -> float:
        return time.monotonic() - self._clock0

    async def play(self) -> Soaked:
        self._server = server = self._stage.server(options=KEPT)
        async with ChaosProxy(server.url, server.folder / "p", seed=self._stage.seed) as self._proxy:
            self._world = world = await self._stage.world(
                server.url,
                STEM_BROKER_URL=self._proxy.url,
                STEM_VISIBILITY_TIMEOUT=f"{LEASE_S:.0f}s",
                STEM_RESULT_TTL=RESULT_TTL,
                STEM_DEAD_MAX=DEAD_MAX,
                STEM_LOG_LEVEL="warning",
            )
            for name in LONG:
                await world.worker(name, app=APP, concurrency=16, queues=("default", name))
            await world.worker("short-0", app=APP, concurrency=16)
            await self._warm_up()
            await self._quiet_before()
            await self._load(self.result.seconds)
            await self._quiet_afterwards()
            await self._judge()
        return self.result

    # ---------------------------------------------------------------------------------------------------------- phases

    async def _warm_up(self) -> None:
        """Until every slot was used, and caches, pools and thread pools are what they will be."""
        controller = self._world.controller
        with self._proxy.having(Loss(share=LOST, then="close")):
            async with self._producing():
                await asyncio.sleep(max(2.0, min(120.0, self.result.seconds / 5)))
        await self._world.enqueue_some(100, "thread_nap", seconds=0.1)
        await controller.pause("task", ["fault.nap"])
        await controller.resume("task", ["fault.nap"])
        if self.result.seconds >= LONG_S:
            for _ in range(REMEMBERED // 4):
                await asyncio.gather(*(controller.ping() for _ in range(4)))
        await self._drained()

    async def _quiet_before(self) -> None:
        await self._empty_dead()
        result, world = self.result, self._world
        for worker in self._long():
            result.settled[worker.name] = [await self._census(worker, collect=True)]
            result.before[worker.name] = look_at_process(worker.pid, self._now)
        result.server_before = await asyncio.to_thread(look_at_server, self._server, world.namespace, keys=True)

    async def _load(self, seconds: float) -> None:
        self._proxy.on(loss := Loss(share=LOST, then="close"))
        works: list[Callable[[], Coroutine[Any, Any, None]]] = [self._sample, self._control, self._restart_workers]
        works.append(self._restart_server)
        async with self._producing():
            tasks = [asyncio.create_task(work(), name=work.__name__) for work in works]
            await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
            for task in tasks:
                if task.done():
                    task.result()
            # A slow machine has both kinds of restarts, too.
            await eventually(lambda: self._short >= 2, 45, what="workers were restarted")
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        self._proxy.off(loss)
        if not self._server.running:
            await asyncio.to_thread(self._server.start)
        self.result.done["answers lost"] = loss.lost

    async def _quiet_afterwards(self) -> None:
        """Wait until everything is back to what it was, at most a minute, and look at what is not."""
        for worker in self._out:
            code = await worker.exit_code(45)
            if code not in (0, 1):
                self.result.violations.append(f"{worker.name} was told to stop and ended with {code}")
        await self._newest()
        await self._drained()
        await self._look_at_revoked()
        await self._empty_dead()
        began, result = time.monotonic(), self.result
        complaints = ["not looked at"]

        async def back() -> bool:
            nonlocal complaints
            complaints = await self._differences()
            await asyncio.sleep(0.5)
            return not complaints

        with contextlib.suppress(AssertionError):
            await eventually(back, QUIET_S)
            result.quiet_after_s = time.monotonic() - began
        result.violations += complaints
        for worker in self._long():
            result.settled[worker.name].append(await self._census(worker, collect=True))

    async def _look_at_revoked(self) -> None:
        """Write down who ended by an operator's word: no worker saw these, and the word's answer may have been lost."""
        for status in await self._world.broker.statuses(self._revoked, timeline=False):
            if status is not None and status.state is TaskState.REVOKED:
                self._world.ledger.write("final:revoked", status.id)
                self.result.revoked += 1

    async def _differences(self) -> list[str]:
        """Return what is not as it was before the load."""
        result, world = self.result, self._world
        found = []
        for worker in self._long():
            was, now = result.before[worker.name], look_at_process(worker.pid, self._now)
            result.after[worker.name] = now
            if now.fds > was.fds + SPARE:
                found.append(f"{worker.name} has {now.fds} file descriptors, it had {was.fds}")
            if now.threads > was.threads:
                found.append(f"{worker.name} has {now.threads} threads, it had {was.threads}")
        before = result.server_before
        assert before is not None
        now_there = await asyncio.to_thread(look_at_server, self._server, world.namespace, keys=True)
        result.server_after = now_there
        if now_there.connections > before.connections + SPARE * (len(LONG) + 2):
            found.append(f"{now_there.connections} connections, there were {before.connections}")
        killed = result.done["worker killed with -9"]
        if now_there.consumers > before.consumers + killed:
            found.append(f"{now_there.consumers} consumers, there were {before.consumers}, and {killed} were killed")
        new = sorted(now_there.lasting - before.lasting)
        if new:
            found.append(f"new keys without a time to live: {new[:5]}")
        if now_there.kept > before.kept + result.revoked:
            found.append(
                f"{now_there.kept} records are kept, there were {before.kept}, and {result.revoked} were revoked"
            )
        return found + await strays(world.url, world.namespace, world.broker)

    async def _judge(self) -> None:
        """I1 to I5 from the ledger; the records are gone by now."""
        result, account = self.result, self._world.ledger.read()
        with contextlib.suppress(AssertionError):  # the last lines come after the answers that they are about
            await eventually(lambda: not self._world.ledger.read().lost() - self._recorded, 10)
            account = self._world.ledger.read()
        lost = account.lost() - self._recorded
        twice = account.finished_twice()
        unexplained = account.unexplained_starts(self._world.disturbances)
        result.tasks = len(account.ids("acked"))
        result.lost, result.doubled = len(lost), len(twice)
        starts = Counter(line.id for line in account.lines if line.kind == "start")
        retries = Counter(line.id for line in account.lines if line.kind == "retry")
        result.extra_starts = sum(max(0, n - 1 - retries[task_id]) for task_id, n in starts.items())
        for what, found in (
            ("lost", sorted(lost)),
            ("ended twice", sorted(twice)),
            ("started and tried by nobody", sorted(account.phantoms())),
            ("started once more without a reason", list(unexplained)),
            ("with tokens that do not grow", list(account.bad_tokens())),
        ):
            if found:
                result.violations.append(f"{len(found)} {what}: {found[:5]}")
        for task_id in sorted(lost | twice.keys())[:3]:
            lines = ", ".join(f"{line.kind} {line.attempt} {line.token} {line.worker}" for line in account.of(task_id))
            result.violations.append(f"{task_id}: {lines}")
        for worker in self._world.fleet:
            if worker.tracebacks():
                result.violations.append(f"{worker.name} wrote a traceback: {worker.tracebacks()[0]}")

    # ------------------------------------------------------------------------------------------------------ the load

    def _producing(self) -> Load:
        each = self._per_s / PRODUCERS
        return Load(self._world, self._random, per_s=each, producers=PRODUCERS, url=self._proxy.url)

    async def _sample(self) -> None:
        every_s = max(0.25, min(5.0, self.result.seconds / 120))
        while True:
            await asyncio.sleep(every_s)
            for worker in self._long():
                sample = look_at_process(worker.pid, self._now)
                self.result.samples.setdefault(worker.name, []).append(sample)
                with contextlib.suppress(StemError):
                    counted = await self._census(worker)
                    self.result.census.setdefault(worker.name, []).append((self._now, counted))
            with contextlib.suppress(redis.RedisError):
                looked = await asyncio.to_thread(look_at_server, self._server, self._world.namespace)
                self.result.memory.append((self._now, looked.memory_bytes))

    async def _control(self) -> None:
        """An operator does something each second."""
        controller, turn = self._world.controller, 0
        while True:
            await asyncio.sleep(1.0)
            turn += 1
            with contextlib.suppress(BrokerError):
                self.result.done["command"] += 1
                match turn % 5:
                    case 0:
                        await controller.stats()
                    case 1:
                        await controller.pause("task", ["fault.nap"], for_s=5)
                        await controller.resume("task", ["fault.nap"])
                    case 2:
                        await self._revoke()
                    case 3:
                        await controller.inspect("active")
                    case _:
                        await controller.ping()

    async def _revoke(self) -> None:
        task_id = new_task_id()
        self._world.ledger.write("tried", task_id)
        await self._world.enqueue("nap", task_id=task_id, seconds=0, delay=30)
        self._revoked.append(task_id)
        await self._world.controller.revoke([task_id])

    async def _restart_workers(self) -> None:
        every_s = max(4.0, min(60.0, self.result.seconds / 5))
        while True:
            await asyncio.sleep(every_s)
            worker = await self._newest()
            self._short += 1
            self._world.fleet.spawn(f"short-{self._short}", app=APP, concurrency=16)
            if self._short % 2:
                self.result.done["worker killed with -9"] += 1
                self._world.kill9(worker.name)
                await self._look_at_last_words(worker)
            else:
                self.result.done["worker stopped by SIGTERM"] += 1
                worker.send(signal.SIGTERM)
                self._out.append(worker)

    async def _look_at_last_words(self, killed: WorkerProcess) -> None:
        """Remember the ends that a killed worker reached, as it may have died before it wrote them down itself."""

        async def remembered() -> bool:
            with contextlib.suppress(BrokerError):
                rows = await self._world.broker.census.history(2_000)
                self._recorded.update(row.id for row in rows if row.worker == killed.id)
                return True
            return False

        await eventually(remembered, 30, what="the server tells what has ended")

    async def _restart_server(self) -> None:
        every_s = max(6.0, min(120.0, self.result.seconds / 3))
        while True:
            await asyncio.sleep(every_s)
            self.result.done["server killed with -9"] += 1
            async with self._world.disturbed(after_s=LEASE_S):
                await asyncio.to_thread(self._server.kill9)
                await asyncio.to_thread(self._server.start)

    # ------------------------------------------------------------------------------------------------------- helpers

    def _long(self) -> list[WorkerProcess]:
        return [worker for worker in self._world.fleet if worker.name in LONG]

    async def _newest(self) -> WorkerProcess:
        """Return the worker that was started last, once it takes work: before, a SIGTERM just ends its process."""
        worker: WorkerProcess
        (worker,) = [one for one in self._world.fleet if one.name == f"short-{self._short}"]
        while not worker.id:
            with contextlib.suppress(BrokerError):
                await self._world.ready(worker)
        return worker

    async def _census(self, worker: WorkerProcess, *, collect: bool = False) -> dict[str, int]:
        """Let a worker count what its process holds."""
        stem = self._world.stem
        task_id = new_task_id()
        self._world.ledger.write("tried", task_id)
        await self._world.enqueue("census", queue=worker.name, task_id=task_id, collect=collect)
        counted: Any = (await stem.wait_for(task_id, timeout=10)).result
        return dict(counted)

    async def _drained(self) -> None:
        async def empty() -> bool:
            with contextlib.suppress(BrokerError):
                rows = await self._world.broker.census.queues()
                return all(row.ready == row.in_flight == row.retrying == row.delayed == row.held == 0 for row in rows)
            return False

        await eventually(empty, 60, what="every queue is empty")

    async def _empty_dead(self) -> None:
        for name in ("default", *LONG):
            while await self._world.broker.purge(name, "dead"):
                pass
