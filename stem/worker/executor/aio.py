"""Runs coroutines on the work loop. Knows nothing of brokers, retries or leases: it says how a piece of work ended."""

from __future__ import annotations

import asyncio
import types
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import Context, copy_context
from typing import Any, Final, Protocol

from stem.errors import SoftTimeLimitExceeded

WAITS_FOR_STARTS: Final = 64
"""A handler that waited for something gets a task of its own this many times, before it is tried without again."""


class SoftTimeLimitCancellation(SoftTimeLimitExceeded, asyncio.CancelledError):
    """What is raised inside a coroutine at its soft limit.

    Also a `CancelledError`, so that `asyncio.TaskGroup`, `asyncio.timeout` and `asyncio.wait_for` inside the handler
    clean up as they do when a task is cancelled; a handler catches it as `SoftTimeLimitExceeded`.
    """


class AioWork(Protocol):
    """A piece of work, as this executor sees it."""

    soft_due: bool
    """True from the moment the soft limit has passed until it was raised in the handler."""

    @property
    def late(self) -> bool:
        """It may no longer begin."""

    def call(self) -> Coroutine[Any, Any, Any]: ...

    def succeeded(self, result: Any) -> None: ...

    def failed(self, error: BaseException) -> None: ...

    def dropped(self) -> None: ...


class QuickWork(AioWork, Protocol):
    """A piece of work that may share an asyncio task with those before it.

    Attributes:
        task: to be cancelled; set when it waits for something.
        waits: how often work of its kind gets a task of its own from now on; kept from one piece to the next.
    """

    task: asyncio.Task[None] | None
    waits: int

    @property
    def id(self) -> str: ...


class AioExecutor:
    """Runs pieces of work as tasks on the work loop; those that do not wait for anything, in one task after another.

    To make, schedule and end a task takes longer than most short handlers do. So the handlers of a batch are called in
    one task, each in a context of its own. The first that waits for something keeps the task, which is the current one
    it has seen from its first line on (time-outs and task groups hold on to it), and the others go on in a new one.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, *, interruptible: bool) -> None:
        """Make one.

        Args:
            interruptible: a `KeyboardInterrupt` may be the end of the program around, which it must reach.
        """
        self._loop = loop
        self._interruptible = interruptible
        self._quick: deque[QuickWork] = deque()
        self._runner: asyncio.Task[None] | None = None
        # The loop holds tasks weakly. Jobs hold theirs, but a job may be settled before its handler has ended.
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def begun(self) -> bool:
        """Everything that may share a task has been called."""
        return not self._quick

    def start(self, work: QuickWork) -> None:
        """Call it in the next turn of the loop, or, where others before it wait for something, soon after."""
        if work.waits > 0:
            work.waits -= 1
            self._spawn(deque((work,)))
            return
        self._quick.append(work)
        if self._runner is None or self._runner.done():
            self._runner = self._spawn(self._quick)

    def _spawn(self, works: deque[QuickWork]) -> asyncio.Task[None]:
        task = self._loop.create_task(self._run(works), name="stem handlers")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _run(self, works: deque[QuickWork]) -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            while works:
                work = works.popleft()
                error = await _stepping(work, lambda: self._keep(work, task))  # noqa: B023 - called in this turn or never
                if self._interruptible and isinstance(error, KeyboardInterrupt):
                    raise error
                if work.task is not None or task.cancelling():
                    return  # what was done to this task is nobody else's
        finally:
            self._hand_over(task)

    def _keep(self, work: QuickWork, task: asyncio.Task[None]) -> None:
        """Give this task to a handler that waits for something, and another one to those behind it."""
        work.task = task
        work.waits = WAITS_FOR_STARTS
        task.set_name(work.id)
        self._hand_over(task)

    def _hand_over(self, task: asyncio.Task[None]) -> None:
        if self._runner is task:
            self._runner = self._spawn(self._quick) if self._quick else None


async def drive(work: AioWork) -> None:
    """Run one piece of work to its end, and report the end to it; never raises."""
    await _stepping(work, _nothing)


@types.coroutine
def _stepping(work: AioWork, waits: Callable[[], None]) -> Generator[Any, Any, BaseException | None]:
    """Run one piece of work in a context of its own; `waits` is called where it waits for the first time.

    Returns:
        What it raised. Not raised: asyncio would carry a SystemExit out of the loop, and one handler's sys.exit() would
        end the worker.
    """
    if work.late:
        work.dropped()
        return None
    context = copy_context()
    try:
        coroutine = context.run(work.call)
        if type(coroutine) is not types.CoroutineType:
            coroutine = _awaited(coroutine)
        try:
            waiting_for = context.run(coroutine.send, None)
        except StopIteration as stop:
            result = stop.value
        else:
            waits()
            result = yield from _raising_soft_limit(coroutine, work, context, waiting_for)
    except BaseException as error:
        work.failed(error)
        return error
    work.succeeded(result)
    return None


def _raising_soft_limit(
    coroutine: Coroutine[Any, Any, Any], work: AioWork, context: Context, waiting_for: Any
) -> Generator[Any, Any, Any]:
    """Step a coroutine that waits as `await` would, but turn the cancellation of a soft limit into its exception."""
    while True:
        error: BaseException | None = None
        try:
            yield waiting_for
        except GeneratorExit:
            coroutine.close()
            raise
        except BaseException as raised:
            error = raised
            if work.soft_due and isinstance(raised, asyncio.CancelledError):
                work.soft_due = False
                task = asyncio.current_task()
                if task is not None:
                    task.uncancel()  # or the handler's own timeouts would take it for a cancellation from outside
                error = SoftTimeLimitCancellation("the soft time limit has passed")
        try:
            waiting_for = context.run(coroutine.send, None) if error is None else context.run(coroutine.throw, error)
        except StopIteration as stop:
            return stop.value


async def _awaited(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


def _nothing() -> None:
    return None


RAISING_SOFT_LIMIT: Final = _raising_soft_limit.__code__
"""How a stack walker recognises the driver above, whose frame does not say by itself what it waits for."""
