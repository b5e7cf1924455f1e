"""What the responder sees of the worker: answers from shared state, and orders passed on to the work loop."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final, Protocol

from stem.contracts import Desired, Pause
from stem.registry import TaskRegistry
from stem.task import given
from stem.worker import beat as beats
from stem.worker import stacks
from stem.worker.beat import Beater
from stem.worker.board import Board
from stem.worker.identity import Identity
from stem.worker.job import Job, Stop
from stem.worker.lifecycle import Level, Lifecycle
from stem.worker.loops import happens

MAX_ROWS: Final = 200
REVOKED_REMEMBERED: Final = 10_000
BARRIER_LOOK_S: Final = 0.002

LEVELS: Final = {"warm": Level.WARM, "soft": Level.SOFT, "hard": Level.HARD}


class WorkSide(Protocol):
    """Orders for the work loop; each may be given from any thread and returns at once."""

    def revoke(self, job: Job, *, terminate: bool) -> None: ...

    def look_again(self) -> None: ...

    def hand_back_unbegun(self) -> None: ...

    def busy_before(self, serial: int) -> bool: ...

    @property
    def serial(self) -> int: ...

    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...

    def pools(self) -> Mapping[str, int]: ...

    def children(self) -> list[dict[str, Any]]: ...

    def child_stacks(self) -> list[dict[str, Any]]: ...


class WorkOrders(WorkSide, Protocol):
    """What the vitals thread asks of the work loop; see `orders`."""

    def stop(self, job: Job, why: Stop) -> None: ...

    def lose(self, job: Job) -> None: ...

    def stop_all(self) -> None: ...

    def adopt_soon(self) -> None: ...

    async def kill_children(self) -> None: ...


class Steering:
    """Implements `stem.control.responder.Steered`. Belongs to the vitals loop."""

    def __init__(
        self,
        *,
        identity: Identity,
        board: Board,
        registry: TaskRegistry,
        config: Mapping[str, Any],
        work: WorkSide,
        lifecycle: Lifecycle,
        beater: Callable[[], Beater],
        state: Callable[[], str],
    ) -> None:
        self._identity = identity
        self._board = board
        self._registry = registry
        self._config = config
        self._work = work
        self._lifecycle = lifecycle
        self._beater = beater
        self._state = state
        self._pauses: Sequence[Pause] = ()
        self._revoked: OrderedDict[str, bool] = OrderedDict()
        self._leaving: asyncio.Future[Mapping[str, Any]] | None = None
        self._changed = asyncio.Event()
        self._rates = _Rates()

    @property
    def id(self) -> str:
        return self._identity.id

    @property
    def name(self) -> str:
        return self._identity.name

    @property
    def version(self) -> str:
        return self._identity.version

    def now_ms(self) -> int:
        return self._board.now_ms()

    # ------------------------------------------------------------------------------------------------- desired state

    def adopt_desired(self, desired: Desired, *, epoch: int) -> None:
        board = self._board
        was_open = board.accepting, board.paused_queues
        # A question raises the epoch and changes nothing: a fleet that is asked must not fetch for it.
        fenced = desired.fence > board.epoch or desired.reset
        self._pauses = desired.pauses
        self.refresh()
        board.draining = self.id in desired.drained
        board.epoch = epoch  # last: with it, fetching under the new state begins
        if board.draining or board.paused_self or board.paused_queues or board.paused_tasks:
            self._work.hand_back_unbegun()
        if (board.accepting, board.paused_queues) != was_open:
            self._beater().poke()
        if fenced:
            self._work.look_again()
        self._changed.set()
        mode = desired.shutdown.get(self.id)
        if mode in LEVELS:
            self._lifecycle.ask(LEVELS[mode], f"shutdown {mode}")

    def refresh(self) -> None:
        """See which pauses still stand; some end by the clock."""
        board = self._board
        before = board.paused_queues, board.paused_self
        board.apply_pauses(self._pauses, worker=self.id, name=self.name)
        if (board.paused_queues, board.paused_self) != before:
            self._work.look_again()

    async def barrier(self, *, begun: bool = True) -> None:
        # Read after the epoch was set: see `Intake.busy_before`.
        serial = self._work.serial
        # Looked at again and again, because the work loop's hot path shall not have to tell another thread.
        while self._work.busy_before(serial) or (begun and any(self._unbegun())):  # noqa: ASYNC110
            await asyncio.sleep(BARRIER_LOOK_S)

    def _unbegun(self) -> list[Job]:
        """Return what must not begin and has no end yet; what may begin is none of a command's business."""
        board = self._board
        return [
            job for job in board.snapshot() if not job.began and job.running and not job.lost and board.closed_to(job)
        ]

    async def idle(self) -> bool:
        board = self._board
        while board.jobs:
            if board.accepting:
                return False
            self._changed.clear()
            await happens(self._changed, 0.25)
        return True

    def emptied(self) -> None:
        """The last job has been settled."""
        self._changed.set()

    def shut_down(self, mode: str, why: str) -> None:
        self._lifecycle.ask(LEVELS[mode], why)

    async def goodbye(self) -> Mapping[str, Any]:
        if self._leaving is None:
            self._leaving = asyncio.get_running_loop().create_future()
        return await asyncio.shield(self._leaving)

    def say_goodbye(self, exit_code: int) -> None:
        """Let everybody who waits for the goodbye have it."""
        if self._leaving is None:
            self._leaving = asyncio.get_running_loop().create_future()
        if not self._leaving.done():
            self._leaving.set_result({"exit_code": exit_code, "left_in_flight": len(self._board.jobs)})

    # -------------------------------------------------------------------------------------------------------- revoke

    def remember_revoked(self, ids: Sequence[str], *, terminate: bool) -> None:
        for task_id in ids:
            self._revoked[task_id] = terminate or self._revoked.get(task_id, False)
            self._revoked.move_to_end(task_id)
        while len(self._revoked) > REVOKED_REMEMBERED:
            self._revoked.popitem(last=False)

    def told_revoked(self, job: Job) -> None:
        """A beat says that a job is revoked: the command may have come before the job did."""
        terminate = self._revoked.get(job.id, False)
        if not job.revoke_asked or (terminate and not job.terminate):
            job.revoke_asked = True
            self._work.revoke(job, terminate=terminate)

    def held(self, ids: Sequence[str]) -> list[str]:
        jobs = self._board.jobs
        return [task_id for task_id in ids if task_id in jobs]

    async def revoke(self, ids: Sequence[str], *, terminate: bool) -> Mapping[str, str]:
        loop, awaited = asyncio.get_running_loop(), self._board.awaited
        ends: dict[str, tuple[_End, asyncio.Future[str]]] = {}
        try:
            for task_id in dict.fromkeys(ids):
                told = awaited.get(task_id)
                if not isinstance(told, _End):
                    awaited[task_id] = told = _End(loop)
                ended: asyncio.Future[str] = loop.create_future()
                told.waiting.add(ended)
                ends[task_id] = told, ended
                job = self._board.jobs.get(task_id)
                if job is None:
                    ended.set_result("not_running")
                    continue
                job.revoke_asked = True
                self._work.revoke(job, terminate=terminate)
            if ends:
                await asyncio.wait([ended for _, ended in ends.values()])
            return {task_id: ended.result() for task_id, (_, ended) in ends.items()}
        finally:
            for task_id, (told, ended) in ends.items():
                told.waiting.discard(ended)
                if not told.waiting and awaited.get(task_id) is told:
                    awaited.pop(task_id, None)  # the work loop may have taken it just now

    # ------------------------------------------------------------------------------------------------------- answers

    def pulse(self) -> Mapping[str, Any]:
        board = self._board
        return {
            "loop_age_ms": round(board.loop_age_s() * 1000),
            "in_flight": len(board.jobs),
            "concurrency": board.concurrency,
            "state": self._state(),
        }

    def stats(self) -> Mapping[str, Any]:
        board = self._board
        heartbeat = self._beater().heartbeat(self._state())
        plain = heartbeat.to_plain()
        plain.pop("running")
        uptime_s = max(0.0, (self.now_ms() - heartbeat.started_at_ms) / 1000)
        return plain | {
            "uptime_s": round(uptime_s, 1),
            "rates": self._rates.per_second(board.counters, uptime_s),
            "pools": dict(self._work.pools()),
            "children": self._work.children(),
            "python": self._identity.python,
        }

    def inspect(self, what: str) -> Mapping[str, Any]:
        board = self._board
        match what:
            case "active" | "reserved":
                began = what == "active"
                jobs = [job for job in board.snapshot() if job.began == began and job.settlement is None]
                return {"count": len(jobs), "items": [self._row(job) for job in jobs[:MAX_ROWS]]}
            case "revoked":
                newest = list(reversed(self._revoked.items()))[:MAX_ROWS]
                return {
                    "count": len(self._revoked),
                    "items": [{"id": task_id, "terminate": terminate} for task_id, terminate in newest],
                }
            case "registered":
                names = self._registry.names()
                return {
                    "count": len(names),
                    "digest": self._registry.digest(),
                    "items": [
                        {"name": name, "kind": known.kind, "isolation": given(known.options.isolation, "")}
                        for name in names
                        for known in (self._registry.get(name),)
                    ],
                }
            case "queues":
                return {
                    "items": [{"name": name, "paused": name in board.paused_queues} for name in board.queues],
                    "worker_paused": board.paused_self,
                    "draining": board.draining,
                }
            case "children":
                rows = self._work.children()
                return {"count": len(rows), "items": rows}
            case "config":
                return dict(self._config)
            case _:
                loop = self._work.loop
                return {
                    "loop_age_ms": round(board.loop_age_s() * 1000),
                    "threads": stacks.thread_stacks(),
                    "tasks": stacks.task_stacks(loop),
                    "children": self._work.child_stacks(),
                }

    def _row(self, job: Job) -> dict[str, Any]:
        age_s = max(0.0, time.monotonic() - job.started_at) if job.began else 0.0
        return asdict(beats.row(job)) | {
            "running_s": round(age_s, 3),
            "revoked": job.revoke_asked,
            "lease_lost": job.lost,
            "stopping": "" if job.stop is None else job.stop.value,
        }


class _End:
    """Those in the vitals loop who wait for the end of one job, of which the work loop tells."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.waiting: set[asyncio.Future[str]] = set()

    def __call__(self, job: Job) -> None:
        # RuntimeError: the vitals loop is closed, nobody waits any more.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._resolve, job.how or "finished")

    def _resolve(self, how: str) -> None:
        for ended in self.waiting:
            if not ended.done():
                ended.set_result(how)


class _Rates:
    """Counters per second since the last question, or since the start."""

    def __init__(self) -> None:
        self._at = 0.0
        self._counters: dict[str, int] = {}

    def per_second(self, counters: Mapping[str, int], uptime_s: float) -> dict[str, float]:
        now = time.monotonic()
        elapsed = now - self._at if self._counters else uptime_s
        before, self._counters, self._at = self._counters, dict(counters), now
        if elapsed <= 0:
            return dict.fromkeys(counters, 0.0)
        return {name: round((count - before.get(name, 0)) / elapsed, 2) for name, count in self._counters.items()}
