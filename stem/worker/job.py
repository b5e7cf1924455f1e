"""One delivery while this worker has it: what it is, how it runs, how it ended. Knows no broker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Coroutine, Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from stem.contracts import Delivery, Settlement
from stem.errors import WorkerLostError
from stem.messages.codec import flaw_in, pack, unpack
from stem.messages.envelope import Envelope
from stem.redaction import NO_VEIL, Veil, travelled_paths
from stem.task import CURRENT, Signature, TaskContext
from stem.worker.plan import Plan

if TYPE_CHECKING:  # a job reports to the dispatcher, which makes jobs
    from stem.worker.dispatch import Dispatcher

SMALL_PROGRESS: Final = 512
"""Bytes of a progress value that heartbeats and events carry; larger ones are kept in the record alone."""
SHOWN_DEPTH: Final = 24
"""Levels of such a value: a heartbeat holds it some levels down, and no message nests deeper than 32."""


def veil_over(body: bytes, paths: Collection[str]) -> Veil:
    """Return what hides these arguments as they were sent: the handler may have changed what it was given."""
    return Veil(Envelope.decode(body, limit=len(body)).args, paths) if paths else NO_VEIL


class Unbegun(Exception):
    """The handler was not called: the task must not begin any more."""


class Stop(Enum):
    """Why a running handler is being stopped."""

    SOFT_LIMIT = "soft limit"
    HARD_LIMIT = "hard limit"
    REVOKED = "revoked"
    HAND_BACK = "hand back"
    UNRENEWED = "unrenewed"
    """Two thirds of the lease have passed without a confirmed renewal."""
    LOST = "lost"
    """The broker says that another worker holds it, or nobody."""

    @property
    def weight(self) -> int:
        """A stronger reason replaces a weaker one."""
        return _WEIGHT[self]


_WEIGHT: Final = {
    Stop.SOFT_LIMIT: 0,
    Stop.HAND_BACK: 1,
    Stop.UNRENEWED: 2,
    Stop.HARD_LIMIT: 3,
    Stop.REVOKED: 4,
    Stop.LOST: 5,
}


class Job:
    """A delivery in flight. Made, started and ended on the work loop.

    The vitals thread reads any field and writes only `revoke_asked`, `lost`, `confirmed_at` and `lease_s`, and in a
    rescue `settlement` (through `Board.conclude`), `abandoned` and `how`; context calls come from the handler's thread.

    Attributes:
        began: the handler has been called.
        confirmed_at: monotonic time at which the last confirmed grant or renewal of the lease was asked for; `lease_s`
            for how long.
        extended_until: monotonic time up to which the handler asked to hold it.
        stop: why it is being stopped; None while it runs undisturbed.
        settlement: how it ended; None while it runs.
        saw_revoke: the handler has been told so; when it returns then, it has stopped, not finished.
        abandoned: it was settled while the handler still ran; whatever comes of the handler counts no more.
        forgotten: its lease is gone and nothing is left to settle.
        revoke_asked: an operator asked for its end; `terminate`: and not only politely.
        how: how it ended, in one word, for whoever revoked it.
    """

    __slots__ = (
        "__weakref__",
        "_veil",
        "abandoned",
        "began",
        "confirmed_at",
        "context",
        "delivery",
        "desk",
        "envelope",
        "error",
        "extended_until",
        "forgotten",
        "holds_slot",
        "how",
        "lease_s",
        "lost",
        "plan",
        "progress_value",
        "result",
        "revoke_asked",
        "saw_revoke",
        "settlement",
        "soft_due",
        "started_at",
        "stop",
        "task",
        "terminate",
    )

    def __init__(self, delivery: Delivery, desk: Dispatcher, *, confirmed_at: float) -> None:
        self.delivery = delivery
        self.desk = desk
        self.confirmed_at = confirmed_at
        self.lease_s = delivery.lease_ms / 1000
        self.envelope: Envelope | None = None
        self.plan: Plan | None = None
        self.context: TaskContext | None = None
        self.task: asyncio.Task[None] | None = None
        self.began = False
        self.started_at = 0.0
        self.holds_slot = False
        self.stop: Stop | None = None
        self.soft_due = False
        self.revoke_asked = False
        self.saw_revoke = False
        self.terminate = False
        self.lost = False
        self.abandoned = False
        self.forgotten = False
        self.extended_until = 0.0
        self.settlement: Settlement | None = None
        self.result: Any = None
        self.error: BaseException | None = None
        self.how = ""
        self.progress_value: Any = None
        self._veil: Veil | None = None

    def __repr__(self) -> str:
        return f"<Job {self.delivery.id} {self.delivery.task}>"

    @property
    def id(self) -> str:
        return self.delivery.id

    @property
    def about(self) -> dict[str, object]:
        """Return what log lines say of it."""
        delivery = self.delivery
        return {
            "task_id": delivery.id,
            "task": delivery.task,
            "queue": delivery.queue,
            "attempt": delivery.attempt,
        }

    @property
    def facts(self) -> dict[str, Any]:
        """Return what every signal says of it."""
        delivery, envelope, desk = self.delivery, self.envelope, self.desk
        return {
            "id": delivery.id,
            "task": delivery.task,
            "queue": delivery.queue,
            "worker": desk.worker_id,
            "worker_name": desk.worker_name,
            "attempt": delivery.attempt,
            "headers": {} if envelope is None else envelope.headers,
            "meta": {} if envelope is None else envelope.meta,
        }

    @property
    def veil(self) -> Veil:
        """What hides the values of its redacted arguments; made when something is first to be shown."""
        veil = self._veil
        if veil is None:
            if self.envelope is None or self.plan is None:
                return NO_VEIL
            veil = self._veil = veil_over(self.delivery.body, self._redacted())
        return veil

    def _redacted(self) -> Collection[str]:
        """Return the paths of the arguments that nobody is shown: the handler's, and those that came with the task."""
        envelope, plan = self.envelope, self.plan
        assert envelope is not None
        assert plan is not None
        return {*plan.redact, *travelled_paths(envelope.options)} if envelope.options else plan.redact

    def lease_ms(self, now: float) -> int:
        """Return for how long to renew it now: its own length, and not less than the handler asked for."""
        return max(self.delivery.lease_ms, round((self.extended_until - now) * 1000))

    @property
    def running(self) -> bool:
        """Its handler has a slot and its end is open."""
        return self.settlement is None and not self.forgotten

    def unrenewed(self, now: float) -> bool:
        """Two thirds of the lease have passed without a confirmed renewal: another worker may have the task soon."""
        return now - self.confirmed_at > self.lease_s * 2 / 3

    @property
    def threaded(self) -> bool:
        return self.plan is not None and self.plan.threaded

    @property
    def isolated(self) -> bool:
        """It runs in a child process."""
        return self.plan is not None and self.plan.isolated

    @property
    def on_loop(self) -> bool:
        """Its handler can block the work loop."""
        return not self.threaded and not self.isolated

    @property
    def isolation(self) -> str:
        if self.isolated:
            return "process"
        return "thread" if self.threaded else "async"

    # ------------------------------------------------------------------------------------- what the executors call

    @property
    def waits(self) -> int:
        """How often its handler gets a task of its own from now on, because it waited for something when last seen."""
        assert self.plan is not None
        return self.plan.registered.waits

    @waits.setter
    def waits(self, starts: int) -> None:
        assert self.plan is not None
        self.plan.registered.waits = starts

    @property
    def late(self) -> bool:
        """It was taken back while it waited for its start, or comes to it too late: the process stood still, and by
        now the lease may have run out."""
        return self.stop is not None or not self.running or self.unrenewed(time.monotonic())

    def begin(self) -> bool:
        """Note the start; False when it is too late for one."""
        if self.late:
            return False
        self.started_at = time.monotonic()
        self.began = True
        if self.isolated:
            self.desk.begun(self)
        return True

    def call(self) -> Any:
        """Call the handler: a coroutine for async ones, the result for plain ones."""
        envelope, plan = self.envelope, self.plan
        assert envelope is not None
        assert plan is not None
        if self.context is None:
            self.make_context()
        CURRENT.set(self.context)
        if plan.registered.kind == "async":
            if self.desk.signalling:
                return self._call_with_signal()
            self.started_at = time.monotonic()
            self.began = True
        assert self.context is not None
        return plan.registered.call(self.context, envelope.args)

    async def _call_with_signal(self) -> Any:
        envelope, plan = self.envelope, self.plan
        assert envelope is not None
        assert plan is not None
        assert self.context is not None
        if not await self.desk.prerun(self):
            raise Unbegun
        self.started_at = time.monotonic()
        self.began = True
        coroutine: Coroutine[Any, Any, Any] = plan.registered.call(self.context, envelope.args)
        return await coroutine

    def succeeded(self, result: Any) -> None:
        self.desk.succeeded(self, result)

    def failed(self, error: BaseException) -> None:
        self.desk.failed(self, error)

    def dropped(self) -> None:
        self.desk.dropped(self)

    def died(self, how: str, *, trace: str, killed: bool) -> None:
        error = WorkerLostError(how)
        if trace:
            error.add_note(trace)
        self.desk.died(self, error, killed=killed)

    def order(self) -> Mapping[str, Any]:
        """Return what a child process needs to run it."""
        delivery, plan = self.delivery, self.plan
        assert plan is not None
        if self.context is None:
            self.make_context()
        return {
            "body": delivery.body,
            "queue": delivery.queue,
            "attempt": delivery.attempt,
            "token": delivery.token,
            "max_retries": plan.max_retries,
            "revoked": self.revoke_asked,
            "lost": self.lost,
            "redact": list(self._redacted()),
        }

    def make_context(self) -> TaskContext:
        delivery, envelope, plan = self.delivery, self.envelope, self.plan
        assert envelope is not None
        assert plan is not None
        self.context = TaskContext(
            self,
            id=delivery.id,
            task=delivery.task,
            queue=delivery.queue,
            attempt=delivery.attempt,
            token=delivery.token,
            max_retries=plan.max_retries,
            headers=envelope.headers,
            meta=envelope.meta,
            root=envelope.root,
            parent=envelope.parent,
            worker=self.desk.worker_id,
        )
        return self.context

    # --------------------------------------------------------------------------------------- what a handler asks for

    def progress(self, value: object) -> None:
        self._progressed(value, pack(value, what="progress", limit=64 * 1024))

    def progress_told(self, packed: bytes) -> None:
        """Take progress over from a child process."""
        self._progressed(unpack(packed, what="progress") if self.veil else None, packed)

    def _progressed(self, value: object, packed: bytes) -> None:
        if self.veil:
            value = self.veil.data(value)
            packed = pack(value, what="progress", limit=64 * 1024)
        # A copy of its own: the handler may go on to change what it gave, and heartbeats are written elsewhere, later.
        shown = unpack(packed, what="progress") if len(packed) <= SMALL_PROGRESS else None
        self.progress_value = shown if flaw_in(shown, SHOWN_DEPTH) is None else None
        self.desk.progressed(self, packed)

    def extend_lease(self, seconds: float) -> None:
        self.extended_until = max(self.extended_until, time.monotonic() + seconds)
        if self.extended_until > self.confirmed_at + self.lease_s:  # what is held for as long needs no beat
            self.desk.lease_wanted(self)

    def revoked(self) -> bool:
        if self.revoke_asked:
            self.saw_revoke = True
        return self.revoke_asked

    def lease_lost(self) -> bool:
        return self.lost

    async def enqueue(self, signature: Signature) -> str:
        return await self.desk.enqueue(self, signature)

    def enqueue_blocking(self, signature: Signature) -> str:
        return self.desk.enqueue_blocking(self, signature)
