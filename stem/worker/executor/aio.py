"""Runs coroutines on the work loop. Knows nothing of brokers, retries or leases: it says how a piece of work ended."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Coroutine, Generator
from typing import Any, Final, Protocol

from stem.errors import SoftTimeLimitExceeded


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

    @property
    def limited(self) -> bool:
        """There is a soft limit."""

    def call(self) -> Coroutine[Any, Any, Any]: ...

    def succeeded(self, result: Any) -> None: ...

    def failed(self, error: BaseException) -> None: ...

    def dropped(self) -> None: ...


async def drive(work: AioWork) -> None:
    """Run one piece of work to its end, and report the end to it; never raises but for an interrupted program."""
    if work.late:
        work.dropped()
        return
    try:
        coroutine = work.call()
        result = await (_raising_soft_limit(coroutine, work) if work.limited else coroutine)
    except KeyboardInterrupt as error:
        work.failed(error)
        raise
    except BaseException as error:
        # SystemExit too: asyncio would carry it out of the loop, and one handler's sys.exit() would end the worker.
        work.failed(error)
    else:
        work.succeeded(result)


@types.coroutine
def _raising_soft_limit(coroutine: Coroutine[Any, Any, Any], work: AioWork) -> Generator[Any, Any, Any]:
    """Step `coroutine` as `await` would, but turn the cancellation of a soft limit into its exception."""
    value: Any = None
    error: BaseException | None = None
    while True:
        try:
            waiting_for = coroutine.send(value) if error is None else coroutine.throw(error)
        except StopIteration as stop:
            return stop.value
        try:
            value, error = (yield waiting_for), None
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


RAISING_SOFT_LIMIT: Final = _raising_soft_limit.__code__
"""How a stack walker recognises the driver above, whose frame does not say by itself what it waits for."""
