"""Lifecycle signals: typed moments in the life of a task or a worker, to which a program hangs its own code.

    StemSignals.on_task_retry(lambda event, context: print("next run at", event.next_retry_at))

Callbacks run in the process where the moment happens: publish signals in the producer, the others in the worker. They
take `(event, context)` and may be plain or `async`; a plain one runs on the loop and must not block it. What a callback
raises is logged and has no other effect. `context` is the `TaskContext` where a handler is concerned, else the object
that emits (a `Stem`, a `Worker`), or None.

Knows messages; nothing of brokers or workers.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar, Final, Generic, TypeVar

from stem.errors import ConfigError
from stem.messages.command import Command
from stem.messages.heartbeat import Heartbeat

_log = logging.getLogger("stem.signals")

E = TypeVar("E")
Callback = Callable[[E, Any], object]


# ------------------------------------------------------------------------------------------------------------ payloads


@dataclass(frozen=True, slots=True, kw_only=True)
class BeforeTaskPublish:
    """A task is about to be sent; it has passed every check."""

    id: str
    task: str
    queue: str
    args: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)
    priority: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AfterTaskPublish:
    """The broker has taken a task.

    Attributes:
        id: of the task that stands for it; another one than `requested_id` when a unique key was held.
        outcome: `queued scheduled exists duplicate revoked`.
    """

    id: str
    requested_id: str
    task: str
    queue: str
    outcome: str
    headers: Mapping[str, str] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskEvent:
    """What every signal about a task on a worker says.

    Attributes:
        worker: the worker's id; `worker_name` its stable name.
        attempt: how many times it failed before.
    """

    id: str
    task: str
    queue: str
    worker: str = ""
    worker_name: str = ""
    attempt: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskReceived(TaskEvent):
    """A delivery has reached the worker; its handler has not begun."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskPrerun(TaskEvent):
    """The handler is about to be called."""

    args: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskPostrun(TaskEvent):
    """The handler has ended, however it did. `outcome` is `succeeded failed retry revoked handed_back crashed lost`."""

    outcome: str = ""
    duration_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRetry(TaskEvent):
    """The task will run again. `next_retry_at` is aware (UTC), by the broker's clock as this worker knows it."""

    next_retry_at: datetime
    delay_s: float = 0.0
    error: BaseException | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSucceeded(TaskEvent):
    """The task has ended well, and the broker has recorded it."""

    result: Any = None
    duration_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFailed(TaskEvent):
    """The task is a dead letter now. `reason` is `failed rejected poison unregistered signature-invalid malformed`."""

    error: BaseException | None = None
    reason: str = "failed"
    duration_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRevoked(TaskEvent):
    """The task was ended by an operator. `how` is `cancelled soft not_started` or the like."""

    how: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskExpired(TaskEvent):
    """The task came too late to be started, or to be started again: the worker that asked for work found it so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerEvent:
    """What every signal about a worker says. `worker` is its id, `worker_name` its stable name."""

    worker: str
    worker_name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerInit(WorkerEvent):
    """The worker is about to start; it is not connected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerReady(WorkerEvent):
    """The worker has registered and takes work now."""

    queues: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    concurrency: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStopping(WorkerEvent):
    """The worker takes nothing more. `mode` is `warm`, `soft` or `hard`; it may come again with a harder one."""

    mode: str = "warm"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerShutdown(WorkerEvent):
    """The worker has said goodbye."""

    exit_code: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerHeartbeat(WorkerEvent):
    """The worker has beaten. Emitted on its vitals thread."""

    heartbeat: Heartbeat


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerChildInit(WorkerEvent):
    """A child process of the worker has started, and has imported the application. Emitted in the child."""

    pid: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerChildShutdown(WorkerEvent):
    """A child process of the worker ends, as it was told to. Emitted in the child; one that is killed emits nothing."""

    pid: int = 0
    exit_code: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlCommandReceived(WorkerEvent):
    """A command for this worker has arrived. Emitted on its vitals thread."""

    command: Command


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlCommandCompleted(WorkerEvent):
    """The worker has answered a command for the last time."""

    command: Command
    ok: bool = True
    error_code: str = ""


# ------------------------------------------------------------------------------------------------------------- signals


class Connection:
    """The hold on one connected callback; calling it disconnects, too."""

    __slots__ = ("_drop",)

    def __init__(self, drop: Callable[[], None]) -> None:
        self._drop = drop

    def disconnect(self) -> None:
        """Stop calling the callback; safe to call twice."""
        self._drop()

    def __call__(self) -> None:
        self._drop()


@dataclass(frozen=True, slots=True)
class _Receiver(Generic[E]):
    callback: Callback[E]
    priority: int
    task: str | None
    worker: str | None

    def wants(self, event: E) -> bool:
        if self.task is not None and getattr(event, "task", None) != self.task:
            return False
        return self.worker is None or self.worker in (
            getattr(event, "worker", None),
            getattr(event, "worker_name", None),
        )


class Signal(Generic[E]):
    """One kind of moment. Callbacks with a higher priority come first; equal ones in the order they were connected."""

    def __init__(self, name: str, event: type[E]) -> None:
        self.name: Final = name
        self.event: Final = event
        self.enabled = True
        # Replaced as a whole and never changed in place: threads emit while others connect.
        self._receivers: tuple[_Receiver[E], ...] = ()

    def __repr__(self) -> str:
        return f"<Signal {self.name}, {len(self._receivers)} callbacks>"

    @property
    def wanted(self) -> bool:
        """Whether anybody listens: ask before making an event."""
        return self.enabled and bool(self._receivers)

    def connect(
        self, callback: Callback[E], *, priority: int = 0, task: str | None = None, worker: str | None = None
    ) -> Connection:
        """Call `callback(event, context)` each time; only for this task name, only on this worker (id or name)."""
        if not callable(callback):
            raise ConfigError(
                f"{self.name}: {type(callback).__name__} is no callback: give a function (event, context)"
            )
        receiver = _Receiver(callback, priority, task, worker)
        self._receivers = tuple(sorted((*self._receivers, receiver), key=lambda each: -each.priority))
        return Connection(lambda: self._drop(receiver))

    def _drop(self, receiver: _Receiver[E]) -> None:
        self._receivers = tuple(each for each in self._receivers if each is not receiver)

    def clear(self) -> None:
        """Disconnect everybody."""
        self._receivers = ()

    async def emit(self, event: E, context: object = None) -> None:
        """Call the callbacks one after the other, awaiting the `async` ones."""
        for receiver in self._receivers if self.enabled else ():
            answer = self._call(receiver, event, context)
            if inspect.isawaitable(answer):
                await self._finish(receiver, answer)

    def emit_nowait(self, event: E, context: object = None) -> None:
        """Call the callbacks; `async` ones are started on the running loop and not waited for."""
        for receiver in self._receivers if self.enabled else ():
            answer = self._call(receiver, event, context)
            if inspect.isawaitable(answer):
                try:
                    loop = asyncio.get_running_loop()
                except RuntimeError:
                    if inspect.iscoroutine(answer):
                        answer.close()
                    _log.warning("signal %s: an async callback was skipped, no event loop runs here", self.name)
                    continue
                started = loop.create_task(self._finish(receiver, answer))
                _started.add(started)
                started.add_done_callback(_started.discard)

    async def _finish(self, receiver: _Receiver[E], answer: Any) -> None:
        try:
            await answer
        except _RAISED as error:
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                raise  # not the callback's own: whoever emits, or the loop, is to end
            self._report(receiver)

    def _call(self, receiver: _Receiver[E], event: E, context: object) -> object:
        try:
            return receiver.callback(event, context) if receiver.wants(event) else None
        except _RAISED:
            self._report(receiver)
            return None

    def _report(self, receiver: _Receiver[E]) -> None:
        name = getattr(receiver.callback, "__qualname__", type(receiver.callback).__name__)
        _log.exception("signal %s: callback %s failed", self.name, name)


_RAISED: Final = (Exception, asyncio.CancelledError, SystemExit)
"""What a callback may raise without effect: also what would end the task, or the process, that emits."""

# The loop holds tasks weakly: these are kept until they are done.
_started: set[asyncio.Task[None]] = set()


class StemSignals:
    """All signals of this process. `StemSignals.on_<signal>(callback, priority=, task=, worker=)` connects and returns
    a `Connection`."""

    before_task_publish: ClassVar = Signal("before_task_publish", BeforeTaskPublish)
    after_task_publish: ClassVar = Signal("after_task_publish", AfterTaskPublish)
    task_received: ClassVar = Signal("task_received", TaskReceived)
    task_prerun: ClassVar = Signal("task_prerun", TaskPrerun)
    task_postrun: ClassVar = Signal("task_postrun", TaskPostrun)
    task_retry: ClassVar = Signal("task_retry", TaskRetry)
    task_succeeded: ClassVar = Signal("task_succeeded", TaskSucceeded)
    task_failed: ClassVar = Signal("task_failed", TaskFailed)
    task_revoked: ClassVar = Signal("task_revoked", TaskRevoked)
    task_expired: ClassVar = Signal("task_expired", TaskExpired)
    worker_init: ClassVar = Signal("worker_init", WorkerInit)
    worker_ready: ClassVar = Signal("worker_ready", WorkerReady)
    worker_stopping: ClassVar = Signal("worker_stopping", WorkerStopping)
    worker_shutdown: ClassVar = Signal("worker_shutdown", WorkerShutdown)
    worker_heartbeat: ClassVar = Signal("worker_heartbeat", WorkerHeartbeat)
    worker_child_init: ClassVar = Signal("worker_child_init", WorkerChildInit)
    worker_child_shutdown: ClassVar = Signal("worker_child_shutdown", WorkerChildShutdown)
    control_command_received: ClassVar = Signal("control_command_received", ControlCommandReceived)
    control_command_completed: ClassVar = Signal("control_command_completed", ControlCommandCompleted)

    on_before_task_publish: ClassVar = before_task_publish.connect
    on_after_task_publish: ClassVar = after_task_publish.connect
    on_task_received: ClassVar = task_received.connect
    on_task_prerun: ClassVar = task_prerun.connect
    on_task_postrun: ClassVar = task_postrun.connect
    on_task_retry: ClassVar = task_retry.connect
    on_task_succeeded: ClassVar = task_succeeded.connect
    on_task_failed: ClassVar = task_failed.connect
    on_task_revoked: ClassVar = task_revoked.connect
    on_task_expired: ClassVar = task_expired.connect
    on_worker_init: ClassVar = worker_init.connect
    on_worker_ready: ClassVar = worker_ready.connect
    on_worker_stopping: ClassVar = worker_stopping.connect
    on_worker_shutdown: ClassVar = worker_shutdown.connect
    on_worker_heartbeat: ClassVar = worker_heartbeat.connect
    on_worker_child_init: ClassVar = worker_child_init.connect
    on_worker_child_shutdown: ClassVar = worker_child_shutdown.connect
    on_control_command_received: ClassVar = control_command_received.connect
    on_control_command_completed: ClassVar = control_command_completed.connect

    @staticmethod
    def named(name: str) -> Signal[Any]:
        """Return the signal of this name.

        Raises:
            ConfigError: there is none.
        """
        signal = _BY_NAME.get(name)
        if signal is None:
            raise ConfigError(f"there is no signal {ascii(name)[:80]}: use one of {', '.join(NAMES)}")
        return signal

    @classmethod
    def has(cls, name: str) -> bool:
        """Say whether anybody listens to it: ask before making an event."""
        return cls.named(name).wanted

    @classmethod
    async def emit(cls, name: str, event: object, context: object = None) -> None:
        """Call everybody who listens, awaiting the `async` ones; never raises what a callback raised."""
        await cls.named(name).emit(event, context)

    @classmethod
    def emit_nowait(cls, name: str, event: object, context: object = None) -> None:
        """Call everybody who listens; `async` ones are started on the running loop and not waited for."""
        cls.named(name).emit_nowait(event, context)

    @classmethod
    def configure(cls, *, enabled: bool = True, disabled: Iterable[str] = ()) -> None:
        """Switch all signals on or off, and these ones off."""
        off = {cls.named(name).name for name in disabled}
        for signal in _BY_NAME.values():
            signal.enabled = enabled and signal.name not in off

    @classmethod
    def clear(cls) -> None:
        """Disconnect everybody from everything; for tests."""
        for signal in _BY_NAME.values():
            signal.clear()


_BY_NAME: Final[dict[str, Signal[Any]]] = {
    value.name: value for value in vars(StemSignals).values() if isinstance(value, Signal)
}
NAMES: Final = tuple(_BY_NAME)
"""The whole catalogue, in the order of a task's and then a worker's life."""
