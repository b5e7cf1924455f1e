"""The simulated processes: workers (the real `stem.worker`, its vitals on a lane of their own) and producers."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final

from stem.config import StemConfig
from stem.errors import BrokerRefusedError, BrokerUnreachableError, StemError, TaskConflictError, UnknownOutcomeError
from stem.options import TaskOptions
from stem.registry import SimpleTaskRegistry
from stem.retry import FixedRetryStrategy
from stem.task import TaskContext
from stem.worker import runtime
from stem.worker.identity import Identity
from stem.worker.lifecycle import WorkerLifecycleConfig
from stem.worker.vitals import Vitals
from tests.simulation.ledger import Ledger
from tests.simulation.loop import LANE, Process
from tests.worker.handlers import on_loop

RETRY_S: Final = 0.7


class SimVitals(Vitals):
    """The real vitals, on a lane of the simulation in place of a thread."""

    _serving: asyncio.Task[None]

    def start(self) -> Future[bool]:
        loop = asyncio.get_running_loop()
        lane = LANE.get().process.lane("vitals")
        self._serving = loop.create_task(self._serve(loop), context=lane.context())
        return self._ready

    def join(self, timeout_s: float) -> None:
        """Nothing to wait for: there is no thread."""


@dataclass(slots=True, kw_only=True)
class WorkerPlan:
    """How the workers of one world are set up."""

    queues: tuple[str, ...]
    concurrency: int
    lease_s: float
    interval_s: float
    drain_s: float
    wedged_s: float


class WorkerNode:
    """A worker process. `code` is its exit code once it has ended by itself."""

    def __init__(self, name: str, number: int, broker: Any, plan: WorkerPlan, ledger: Ledger, process: Process) -> None:
        self.process = process
        self.plan = plan
        self.work = process.lane("work")
        self.code: int | None = None
        self._identity = Identity(id=f"{name}-{number}", name=name, host="sim", pid=number, version="0", python="0")
        self._broker = broker
        self._ledger = ledger
        self.worker: runtime.Worker | None = None

    @property
    def id(self) -> str:
        return self._identity.id

    @property
    def gone(self) -> bool:
        return self.process.dead or self.code is not None

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._main = loop.create_task(self._run(), context=self.work.context())

    def stop(self, mode: str) -> None:
        """Ask it to stop, as a signal does."""
        if self.worker is not None:
            context = self.work.context()
            self._stopping = asyncio.get_running_loop().create_task(self.worker.shutdown(mode), context=context)

    def left(self) -> list[str]:
        """Return the tasks it still counts as its own, and its slots that are taken."""
        if self.worker is None:
            return []
        board = self.worker._board
        return [*board.jobs, *["a slot"] * board.slots_used]

    async def _run(self) -> None:
        plan = self.plan
        config = StemConfig(
            visibility_timeout_s=plan.lease_s, heartbeat_interval_s=plan.interval_s, default_max_retries=2
        )
        lifecycle = WorkerLifecycleConfig(soft_timeout=1.0, drain_timeout=plan.drain_s, wedged_timeout=plan.wedged_s)
        self.worker = runtime.Worker(
            broker=self._broker,
            registry=handlers(self._ledger, self._identity.id),
            queues=plan.queues,
            concurrency=plan.concurrency,
            retry_strategy=FixedRetryStrategy(RETRY_S),
            lifecycle=lifecycle,
            config=config,
        )
        # Ids are drawn from the operating system: a name that the seed decides takes their place.
        object.__setattr__(self.worker, "_identity", self._identity)
        self.worker._board.worker_id = self._identity.id
        try:
            self.code = await self.worker.run()
        except BrokerRefusedError as error:
            self._ledger.wrong(f"{self.id} was refused: {error}")
        self._ledger.note(f"exit {self.id} {self.code}")


def handlers(ledger: Ledger, worker: str) -> SimpleTaskRegistry:
    """Return the handlers of one worker; each run is noted, and returns `<id>:<token>`."""
    registry = SimpleTaskRegistry()

    async def work(context: TaskContext, args: Mapping[str, Any]) -> str:
        run = ledger.begins(context.id, context.token, worker)
        how = "cancelled"
        try:
            await _work(context, args, ledger)
            if context.attempt < args.get("fails", 0):
                how = "raised"
                raise ValueError("as asked")
            if context.attempt < args.get("asks", 0):
                how = "asked"
                context.retry(0.3)
            how = "ok"
            return f"{context.id}:{context.token}"
        finally:
            ledger.ends(context.id, run, how)

    on_loop(registry, "work", work)
    return registry


async def _work(context: TaskContext, args: Mapping[str, Any], ledger: Ledger) -> None:
    seconds = args.get("seconds", 0.0)
    if args.get("stubborn"):
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            await asyncio.sleep(min(seconds, 1.0))
            raise
    elif seconds:
        half = seconds / 2
        await asyncio.sleep(half)
        if args.get("progress"):
            context.progress({"half": True})
        await asyncio.sleep(half)
    child = args.get("child")
    if child is not None:
        try:
            await context.enqueue("work", {"seconds": 0.01}, task_id=child, options=TaskOptions(queue=args["queue"]))
        except (BrokerUnreachableError, UnknownOutcomeError):
            ledger.task(child).unknown = True
            raise
        except TaskConflictError:
            ledger.counts["conflict"] += 1  # an earlier run of this task had enqueued it
        ledger.task(child).acked = True


class ProducerNode:
    """Enqueues one task after the other with the real client, and notes what it was told."""

    def __init__(
        self, stem: Any, ledger: Ledger, rng: random.Random, process: Process, make: Callable[[], Any]
    ) -> None:
        self._stem = stem
        self._ledger = ledger
        self._rng = rng
        self._make = make
        self.process = process
        self._sends: set[asyncio.Task[None]] = set()

    def start(self, count: int, within_s: float) -> asyncio.Task[None]:
        loop = asyncio.get_running_loop()
        return loop.create_task(self._produce(count, within_s), context=self.process.lane("loop").context())

    async def _produce(self, count: int, within_s: float) -> None:
        moments = sorted(self._rng.random() * within_s for _ in range(count))
        began = asyncio.get_running_loop().time()
        for moment in moments:
            await asyncio.sleep(max(0.0, began + moment - asyncio.get_running_loop().time()))
            send = asyncio.get_running_loop().create_task(self._send(*self._make()))
            self._sends.add(send)
            send.add_done_callback(self._sends.discard)
        while self._sends:
            await asyncio.wait(set(self._sends))

    async def _send(self, task_id: str, args: dict[str, Any], options: dict[str, Any]) -> None:
        task = self._ledger.task(task_id)
        task.expires = options.get("expires") is not None
        if args.get("child"):
            self._ledger.task(args["child"])
        again = 1 if self._rng.random() < 0.3 else 6
        for _ in range(again):
            try:
                got = await self._stem.enqueue("work", args, task_id=task_id, **options)
            except UnknownOutcomeError:
                task.unknown = True
            except BrokerUnreachableError:
                task.refused = True
            except TaskConflictError as error:
                if not task.unknown:
                    self._ledger.wrong(f"the producer of {task_id} was told {error!r}")
                self._ledger.counts["conflict"] += 1
                task.acked = True
                return
            except StemError as error:
                self._ledger.wrong(f"the producer of {task_id} was told {error!r}")
                return
            else:
                self._ledger.note(f"acked {task_id} {got}")
                self._ledger.task(got).acked = True
                return
            await asyncio.sleep(1.0)
