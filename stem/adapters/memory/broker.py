"""The handles on a broker that lives in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from typing import Final, Literal

from stem.adapters.memory import control, recovery, steering
from stem.adapters.memory.census import InMemoryCensus
from stem.adapters.memory.control import InMemoryControl
from stem.adapters.memory.core import Core
from stem.adapters.memory.enqueue import enqueue
from stem.adapters.memory.events import InMemoryEventLog
from stem.adapters.memory.exchange import exchange
from stem.adapters.memory.handle import Handle
from stem.adapters.memory.presence import InMemoryPresence
from stem.adapters.memory.record import revoked_before
from stem.adapters.memory.waiting import LoopWaiter, ThreadWaiter, Waiter
from stem.clock import Clock, SystemClock
from stem.contracts import (
    ChangeItem,
    Delivery,
    Enqueued,
    Exchange,
    FetchRequest,
    Lease,
    Limits,
    NewTask,
    RevokeTasks,
    Settlement,
    Swept,
)
from stem.errors import BrokerUnreachableError
from stem.messages.command import Command
from stem.messages.names import check_name
from stem.messages.status import TaskStatus

URL: Final = "memory://"
MAX_IDLE_S: Final = 2.0


class InMemoryBroker:
    """A whole broker in this process: see `stem.contracts.Broker` for what each method promises.

    It keeps what a server would keep (encoded bytes, leases, desired state) and forgets it with the process. Handles of
    one broker (`clone()`, `blocking()`) may be used from any event loop and thread; waiting wakes across them.

    Args:
        clock: the broker's time is its `wall_ms()`; waiting itself is timed by the event loop.
    """

    def __init__(self, namespace: str = "stem", clock: Clock | None = None, limits: Limits | None = None) -> None:
        check_name("namespace", namespace)
        self._attach(Core(namespace, clock or SystemClock(), limits or Limits()))

    def _attach(self, core: Core) -> None:
        self._core = core
        self._handle = Handle(core)
        self.presence = InMemoryPresence(self._handle)
        self.control = InMemoryControl(self._handle)
        self.events = InMemoryEventLog(self._handle)
        self.census = InMemoryCensus(self._handle, URL)

    @property
    def namespace(self) -> str:
        return self._core.namespace

    @property
    def url(self) -> str:
        return URL

    def clone(self) -> InMemoryBroker:
        other = object.__new__(InMemoryBroker)
        other._attach(self._core)
        return other

    def blocking(self) -> InMemoryBlockingBroker:
        return InMemoryBlockingBroker(self._core)

    async def close(self) -> None:
        self._handle.close()

    # -------------------------------------------------------------------------------------------- producing, working

    async def enqueue(self, tasks: Sequence[NewTask]) -> list[Enqueued]:
        await self._turn()
        with self._core.step() as now:
            return enqueue(self._core, tasks, now)

    async def exchange(self, worker: str, settlements: Sequence[Settlement], fetch: FetchRequest | None) -> Exchange:
        await self._turn()
        with self._core.step() as now:
            return exchange(self._core, worker, settlements, fetch, now)

    async def idle(self, queues: Sequence[str], timeout_s: float) -> None:
        await self._turn()
        core, waiter = self._core, LoopWaiter()
        with core.lock:
            if core.bells.take(queues):
                return
            core.bells.add(queues, waiter)
        returned = False
        try:
            with self._handle.released_by_close(waiter):
                await waiter.wait(min(timeout_s, MAX_IDLE_S))
            returned = True
        finally:
            with core.lock:
                core.bells.discard(queues, waiter)
                if waiter.fired and not returned:
                    self._pass_on(queues)

    def _pass_on(self, queues: Sequence[str]) -> None:
        """Ring again what a cancelled waiter was woken for: the next idle worker takes it."""
        for queue in queues:
            if queue in self._core.lines:
                self._core.bells.ring(queue)

    async def adopt(self, worker: str, queues: Sequence[str], known: Collection[str]) -> list[Delivery]:
        with self._core.step() as now:
            return recovery.adopt(self._core, worker, queues, known, now)

    async def sweep(self, queues: Sequence[str], *, max_crashes: int = 3, worker: str = "") -> Swept:
        with self._core.step() as now:
            return recovery.sweep(self._core, queues, max_crashes, now)

    async def leave(self, worker: str, queues: Sequence[str]) -> None:
        """Nothing to forget here: ownership is kept by task, and ends with its last one."""

    async def extend(self, worker: str, lease: Lease) -> bool:
        with self._core.step() as now:
            return recovery.renew(self._core, worker, lease, now) is not None

    # ------------------------------------------------------------------------------------------------------- looking

    async def statuses(self, ids: Sequence[str], *, timeline: bool = True) -> list[TaskStatus | None]:
        return statuses(self._core, ids, timeline=timeline)

    async def body(self, task_id: str) -> tuple[bytes, bytes] | None:
        with self._core.step() as now:
            record = self._core.record(task_id, now)
            return None if record is None or not record.body else (record.body, record.signature)

    async def wait(self, task_id: str, timeout_s: float) -> TaskStatus | None:
        waiter = LoopWaiter()
        if not watch_end(self._core, task_id, waiter):
            return statuses(self._core, [task_id])[0]
        try:
            with self._handle.released_by_close(waiter):
                await waiter.wait(timeout_s)
        finally:
            unwatch_end(self._core, task_id, waiter)
        return statuses(self._core, [task_id])[0]

    # ------------------------------------------------------------------------------------------------------ operating

    async def replay(self, ids: Sequence[str]) -> dict[str, str]:
        with self._core.step() as now:
            return steering.replay(self._core, ids, now)

    async def retry_now(self, ids: Sequence[str]) -> dict[str, str]:
        with self._core.step() as now:
            return steering.retry_now(self._core, ids, now)

    async def purge(self, queue: str, what: Literal["waiting", "dead"], *, limit: int = 500) -> int:
        with self._core.step() as now:
            return steering.purge(self._core, queue, what, limit, now)

    async def discard(self, queue: str, ids: Sequence[str]) -> int:
        with self._core.step() as now:
            return steering.discard(self._core, queue, ids, now)

    async def reconcile(self, cursor: str = "0", *, limit: int = 500) -> tuple[str, int]:
        with self._core.step() as now:
            return recovery.reconcile(self._core, cursor, limit, now)

    async def _turn(self) -> None:
        # A server gives others a turn while it answers. Before the step, so that a cancelled call was not applied.
        await asyncio.sleep(0)


class InMemoryBlockingBroker:
    """See `stem.contracts.BlockingBroker`."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._handle = Handle(core)

    @property
    def namespace(self) -> str:
        return self._core.namespace

    @property
    def url(self) -> str:
        return URL

    def enqueue(self, tasks: Sequence[NewTask]) -> list[Enqueued]:
        with self._core.step() as now:
            return enqueue(self._core, tasks, now)

    def statuses(self, ids: Sequence[str], *, timeline: bool = True) -> list[TaskStatus | None]:
        return statuses(self._core, ids, timeline=timeline)

    def wait(self, task_id: str, timeout_s: float, *, limit_s: float | None = None) -> TaskStatus | None:
        waiter = ThreadWaiter()
        if watch_end(self._core, task_id, waiter):
            try:
                with self._handle.released_by_close(waiter):
                    waiter.wait(timeout_s)
            finally:
                unwatch_end(self._core, task_id, waiter)
        return statuses(self._core, [task_id])[0]

    def cancel(self, task_id: str, command: Command) -> ChangeItem:
        terminate = command.args.get("terminate") is True
        issued = control.issue(self._core, command, RevokeTasks(ids=(task_id,), terminate=terminate))
        if not issued.items:
            raise BrokerUnreachableError(f"command {command.id} was issued before, without a change")
        return issued.items[0]

    def close(self) -> None:
        self._handle.close()


def statuses(core: Core, ids: Sequence[str], *, timeline: bool = True) -> list[TaskStatus | None]:
    """Return what the records say, None for ids without one."""
    with core.step() as now:
        return [_status(core, task_id, now, timeline=timeline) for task_id in ids]


def _status(core: Core, task_id: str, now: int, *, timeline: bool) -> TaskStatus | None:
    record = core.record(task_id, now)
    if record is not None:
        return record.status(timeline=timeline)
    tombstone = core.tombstone(task_id, now)
    return None if tombstone is None else revoked_before(task_id, *tombstone, timeline=timeline)


def watch_end(core: Core, task_id: str, waiter: Waiter) -> bool:
    """Have a waiter woken when a task becomes final; False if there is nothing to wait for."""
    with core.step() as now:
        record = core.record(task_id, now)
        if record is None or record.state.final:
            return False
        core.waits.add(f"done:{task_id}", waiter)
        return True


def unwatch_end(core: Core, task_id: str, waiter: Waiter) -> None:
    with core.lock:
        core.waits.discard(f"done:{task_id}", waiter)
