"""What a task is to the people who write one: its options, its context, and the object that `@app.task` makes.

Knows neither brokers nor workers: a context reaches its worker through `ContextPort`, a task its application through
`Publisher`.
"""

from __future__ import annotations

import functools
import inspect
import re
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import field
from datetime import datetime
from typing import Any, Final, ForwardRef, Generic, NoReturn, ParamSpec, Protocol, TypeVar

from stem.callables import signature_of
from stem.errors import ConfigError, InvalidArgumentsError, Retry
from stem.messages.names import check_name
from stem.options import NO_OPTIONS as NO_OPTIONS
from stem.options import UNSET as UNSET
from stem.options import Duration, shown, to_seconds
from stem.options import TaskOptions as TaskOptions
from stem.options import Unset as Unset
from stem.options import given as given
from stem.options import seconds as seconds
from stem.record import record

P = ParamSpec("P")
C = ParamSpec("C")
R = TypeVar("R")

# ----------------------------------------------------------------------------------------------------------- signature


@record
class Signature:
    """Everything `enqueue` needs to know about one task: a request that can be kept, passed on, and sent in a batch.

    Attributes:
        delay: from now; `eta`: at this time (aware); at most one of them.
        expires: too late to start: after this long, or at this time (aware).
        task_id: of the caller's choice, so that repeating the request is safe; else a new UUIDv7.
    """

    name: str
    args: Mapping[str, Any] = field(default_factory=dict)
    options: TaskOptions = NO_OPTIONS
    meta: Mapping[str, Any] | None = None
    headers: Mapping[str, str] | None = None
    delay: Duration | None = None
    eta: datetime | None = None
    expires: Duration | datetime | None = None
    priority: int | None = None
    unique_key: str | None = None
    task_id: str | None = None

    def with_args(self, args: Mapping[str, Any]) -> Signature:
        """Return the same request with other arguments."""
        # Each task comes by here, and `dataclasses.replace` takes three times as long.
        return Signature(
            name=self.name,
            args=args,
            options=self.options,
            meta=self.meta,
            headers=self.headers,
            delay=self.delay,
            eta=self.eta,
            expires=self.expires,
            priority=self.priority,
            unique_key=self.unique_key,
            task_id=self.task_id,
        )


class Origin(Protocol):
    """The running task that enqueues another one."""

    @property
    def id(self) -> str: ...

    @property
    def root(self) -> str | None: ...


# ------------------------------------------------------------------------------------------------------------- context


class ContextPort(Protocol):
    """What the worker gives a context. Everything but `enqueue` may be called from any thread."""

    def progress(self, value: object) -> None:
        """Keep `value` as the task's progress; never blocks."""

    def extend_lease(self, seconds: float) -> None:
        """Ask for the lease to run for `seconds` from now at least."""

    def revoked(self) -> bool:
        """Say whether an operator asked for this task to end."""

    def lease_lost(self) -> bool:
        """Say whether another worker holds the task now: nothing this one does counts any more."""

    async def enqueue(self, signature: Signature) -> str:
        """Enqueue another task as a child of this one; on the work loop."""

    def enqueue_blocking(self, signature: Signature) -> str:
        """Do the same from a thread that is not the work loop's."""


class TaskContext:
    """What a handler knows about its run and may ask of its worker.

    Attributes:
        id, task, queue: of this task.
        attempt: how many times it failed so far, from 0.
        token: from 1, grows by one with each start, for as long as the record is kept; a fence for the handler's own
            writes.
        max_retries: how often it may fail and run again.
        headers, meta: what its producer gave.
        root, parent: ids of the task that began the chain (None: this one did) and of the one that enqueued this one.
        worker: the worker's id.
        last_heartbeat_s: when `heartbeat` or `progress` was last called, by `time.monotonic()`; 0 for never.
    """

    __slots__ = (
        "_port",
        "attempt",
        "headers",
        "id",
        "last_heartbeat_s",
        "max_retries",
        "meta",
        "parent",
        "queue",
        "root",
        "task",
        "token",
        "worker",
    )

    def __init__(
        self,
        port: ContextPort,
        *,
        id: str,
        task: str,
        queue: str,
        attempt: int = 0,
        token: int = 0,
        max_retries: int = 0,
        headers: Mapping[str, str] | None = None,
        meta: Mapping[str, Any] | None = None,
        root: str | None = None,
        parent: str | None = None,
        worker: str = "",
    ) -> None:
        self._port = port
        self.id = id
        self.task = task
        self.queue = queue
        self.attempt = attempt
        self.token = token
        self.max_retries = max_retries
        self.headers: Mapping[str, str] = {} if headers is None else headers
        self.meta: Mapping[str, Any] = {} if meta is None else meta
        self.root = root
        self.parent = parent
        self.worker = worker
        self.last_heartbeat_s = 0.0

    def __repr__(self) -> str:
        return f"TaskContext(id={self.id!r}, task={self.task!r}, queue={self.queue!r}, attempt={self.attempt})"

    @property
    def is_revoked(self) -> bool:
        """Whether an operator asked for this task to end; a long handler in a thread looks at it now and then."""
        return self._port.revoked()

    @property
    def lease_lost(self) -> bool:
        """Whether another worker holds the task now: whatever this run still does is not recorded."""
        return self._port.lease_lost()

    def heartbeat(self) -> None:
        """Give a sign of life; from any thread. The lease is renewed without it, as long as the worker lives."""
        self.last_heartbeat_s = time.monotonic()

    def extend_lease(self, seconds: Duration) -> None:
        """Ask for the lease to run for this long from now at least, for work during which even the worker's own
        thread may not get to run (a C extension that holds the GIL)."""
        self._port.extend_lease(to_seconds("seconds", seconds))

    def progress(self, value: object) -> None:
        """Show `value` (plain data) as this task's progress; from any thread, at once, as often as you like: only the
        last one of each heartbeat travels."""
        self.last_heartbeat_s = time.monotonic()
        self._port.progress(value)

    def retry(self, countdown: Duration | None = None) -> NoReturn:
        """End this attempt as failed and run the task again, after `countdown` or as the retry policy says.

        Raises:
            Retry: always; it must leave the handler.
        """
        raise Retry(countdown=None if countdown is None else to_seconds("countdown", countdown, least=0))

    async def enqueue(
        self,
        name: str,
        args: Mapping[str, Any] | None = None,
        *,
        options: TaskOptions | None = None,
        meta: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        delay: Duration | None = None,
        eta: datetime | None = None,
        expires: Duration | datetime | None = None,
        priority: int | None = None,
        unique_key: str | None = None,
        task_id: str | None = None,
    ) -> str:
        """Enqueue another task as a child of this one; the same as `Stem.enqueue`. For `async` handlers."""
        return await self._port.enqueue(
            Signature(
                name=name,
                args={} if args is None else args,
                options=NO_OPTIONS if options is None else options,
                meta=meta,
                headers=headers,
                delay=delay,
                eta=eta,
                expires=expires,
                priority=priority,
                unique_key=unique_key,
                task_id=task_id,
            )
        )

    def enqueue_blocking(
        self,
        name: str,
        args: Mapping[str, Any] | None = None,
        *,
        options: TaskOptions | None = None,
        meta: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        delay: Duration | None = None,
        eta: datetime | None = None,
        expires: Duration | datetime | None = None,
        priority: int | None = None,
        unique_key: str | None = None,
        task_id: str | None = None,
    ) -> str:
        """Do the same from a handler that runs in a thread."""
        return self._port.enqueue_blocking(
            Signature(
                name=name,
                args={} if args is None else args,
                options=NO_OPTIONS if options is None else options,
                meta=meta,
                headers=headers,
                delay=delay,
                eta=eta,
                expires=expires,
                priority=priority,
                unique_key=unique_key,
                task_id=task_id,
            )
        )


CURRENT: Final[ContextVar[TaskContext | None]] = ContextVar("stem_current_task", default=None)
"""The context of the handler that runs here. A worker that sets it lets plain `task.enqueue()` calls inside a handler
find their parent."""


# ------------------------------------------------------------------------------------------------------------ handlers


class TaskHandler(Protocol):
    """A task as an object: a name, options where it wants some, and a call. No base class is needed.

    It may also have an attribute `options`, a `TaskOptions`. `__call__` may be `async def` (runs on the work loop) or
    `def` (runs in a thread).
    """

    name: str

    def __call__(self, context: TaskContext, args: Mapping[str, Any]) -> Any: ...


class Parameters:
    """What a function takes, seen from outside: its parameters without the context.

    Attributes:
        takes_context: its first parameter is named `context` or annotated as `TaskContext`.
        names: what positional arguments are bound to, in order.
        required: names without a default.
    """

    __slots__ = ("_allowed", "_any_keyword", "_given", "_text", "names", "required", "takes_context")

    def __init__(self, function: Callable[..., Any], *, task: str) -> None:
        try:
            parameters = list(signature_of(function).parameters.values())
        except (TypeError, ValueError) as error:
            raise ConfigError(f"task {task}: the parameters of {function!r} cannot be read: {error}") from error
        self.takes_context = bool(parameters) and _is_context(function, parameters[0])
        rest = parameters[1:] if self.takes_context else parameters
        for each in rest:
            if each.kind in (each.VAR_POSITIONAL, each.POSITIONAL_ONLY):
                raise ConfigError(
                    f"task {task}: parameter {each.name!r} takes no name, and arguments travel by name: "
                    "take named parameters or **kwargs"
                )
        named = [each for each in rest if each.kind is not each.VAR_KEYWORD]
        self.names = tuple(each.name for each in named if each.kind is each.POSITIONAL_OR_KEYWORD)
        self.required = tuple(each.name for each in named if each.default is each.empty)
        self._allowed = frozenset(each.name for each in named)
        self._any_keyword = len(named) < len(rest)
        # By place only, the context leaves its name to **kwargs.
        by_name = self.takes_context and parameters[0].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
        self._given = {parameters[0].name} if by_name else set()
        shown = [each.name if each.default is each.empty else f"{each.name}=…" for each in named]
        self._text = "(" + ", ".join([*shown, "**kwargs"] if self._any_keyword else shown) + ")"

    def bind(self, task: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return positional and keyword arguments as one map by name.

        Raises:
            InvalidArgumentsError: too many positional ones, or one given twice.
        """
        if not args:
            return kwargs
        if len(args) > len(self.names):
            raise InvalidArgumentsError(
                f"{task} takes {len(self.names)} positional arguments {self._text}, {len(args)} were given"
            )
        bound = dict(zip(self.names, args, strict=False))
        for name in bound:
            if name in kwargs:
                raise InvalidArgumentsError(f"{task}: {name!r} is given twice, by place and by name")
        bound.update(kwargs)
        return bound

    def check(self, task: str, args: Mapping[str, Any]) -> None:
        """Raise `InvalidArgumentsError` unless the function can be called with `args` as keywords."""
        missing = [name for name in self.required if name not in args]
        if self._any_keyword:
            extra, wrong = [name for name in self._given if name in args], "is the worker's to give"
        else:
            extra, wrong = [name for name in args if name not in self._allowed], "unknown"
        if missing or extra:
            parts = [f"{_list(names)} {word}" for names, word in ((missing, "missing"), (extra, wrong)) if names]
            raise InvalidArgumentsError(f"{task} takes {self._text}: {'; '.join(parts)}")


def _list(names: list[str]) -> str:
    return ", ".join(shown(name) for name in names[:10])


def _is_context(function: Callable[..., Any], parameter: inspect.Parameter) -> bool:
    if parameter.kind not in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
        return False
    annotation = parameter.annotation
    if isinstance(annotation, ForwardRef):
        annotation = annotation.__forward_arg__
    if annotation is parameter.empty or annotation is Any:
        return parameter.name == "context"
    if isinstance(annotation, str):
        # Under `from __future__ import annotations`; an alias is looked up where the function was written.
        if re.search(r"\bTaskContext\b", annotation):
            return True
        home = getattr(inspect.unwrap(function), "__globals__", {})
        return home.get(annotation) is TaskContext or (
            annotation in ("Any", "typing.Any") and parameter.name == "context"
        )
    return annotation is TaskContext or "TaskContext" in str(annotation)


# ---------------------------------------------------------------------------------------------------------------- task


class Publisher(Protocol):
    """What a task needs of the application that made it."""

    async def send(self, signature: Signature, *, origin: Origin | None = None) -> str: ...

    def send_blocking(self, signature: Signature, *, origin: Origin | None = None) -> str: ...


class Task(Generic[P, R, C]):
    """A function that can be enqueued; `@app.task` makes it. Called directly, it is still the function.

    Attributes:
        name: of the task; `options`: as given to the decorator; `function`: as written, that of a task decorated again.
    """

    __name__: str
    __qualname__: str

    def __init__(self, function: Callable[C, R], *, name: str, options: TaskOptions, publisher: Publisher) -> None:
        if isinstance(function, Task):
            function = function.function
        self.name: Final = check_name("task", name)
        self.options: Final = options
        self.function: Final[Callable[C, R]] = function
        self.parameters: Final = Parameters(function, task=name)
        self._plain: Final[TaskVariant[P]] = TaskVariant(Signature(name=name), self.parameters, publisher)
        # What others hung on the function stays there: `f.name` or `f.options` would take the place of the task's own.
        functools.update_wrapper(self, function, updated=())

    def __call__(self, *args: C.args, **kwargs: C.kwargs) -> R:
        """Call the function here and now; nothing is enqueued."""
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<Task {self.name}>"

    async def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """Enqueue it with these arguments and return the task's id; they are checked before anything is sent."""
        return await self._plain.enqueue(*args, **kwargs)

    def enqueue_blocking(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """Do the same from code without an event loop."""
        return self._plain.enqueue_blocking(*args, **kwargs)

    def signature(self, *args: P.args, **kwargs: P.kwargs) -> Signature:
        """Return the request without sending it, for `enqueue_many`."""
        return self._plain.signature(*args, **kwargs)

    def with_options(
        self,
        options: TaskOptions | None = None,
        *,
        queue: str | None = None,
        priority: int | None = None,
        delay: Duration | None = None,
        eta: datetime | None = None,
        expires: Duration | datetime | None = None,
        unique_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        meta: Mapping[str, Any] | None = None,
        task_id: str | None = None,
    ) -> TaskVariant[P]:
        """Return a variant that is enqueued in another way: ``await build.with_options(delay=60).enqueue("x")``."""
        chosen = NO_OPTIONS if options is None else options
        if queue is not None:
            chosen = TaskOptions(queue=queue).over(chosen)
        template = Signature(
            name=self.name,
            options=chosen,
            meta=meta,
            headers=headers,
            delay=delay,
            eta=eta,
            expires=expires,
            priority=priority,
            unique_key=unique_key,
            task_id=task_id,
        )
        return TaskVariant(template, self.parameters, self._plain.publisher)


class TaskVariant(Generic[P]):
    """A task together with the way to enqueue it."""

    __slots__ = ("_parameters", "_template", "publisher")

    def __init__(self, template: Signature, parameters: Parameters, publisher: Publisher) -> None:
        self._template = template
        self._parameters = parameters
        self.publisher = publisher

    def signature(self, *args: P.args, **kwargs: P.kwargs) -> Signature:
        """Return the request without sending it, for `enqueue_many`.

        Raises:
            InvalidArgumentsError: the function cannot be called with these arguments.
        """
        bound = self._parameters.bind(self._template.name, args, kwargs)
        self._parameters.check(self._template.name, bound)
        return self._template.with_args(bound)

    async def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """Enqueue it with these arguments and return the task's id."""
        return await self.publisher.send(self.signature(*args, **kwargs))

    def enqueue_blocking(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """Do the same from code without an event loop."""
        return self.publisher.send_blocking(self.signature(*args, **kwargs))
