"""Keep a loop alive: log what kills it, back off, start it again."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from stem.errors import UnknownOutcomeError
from stem.text import clean

log = logging.getLogger("stem.worker")

HOPELESS_DEATHS: Final = 10
HOPELESS_WITHIN_S: Final = 60.0
CANCEL_AGAIN_S: Final = 2.0
TRIES: Final = 3


async def happens(event: asyncio.Event, within_s: float) -> bool:
    """Wait for `event`; False when time ran out.

    Not `asyncio.wait_for`: on Python 3.11 that swallows a cancellation which comes together with the event.
    """
    try:
        async with asyncio.timeout(within_s):
            await event.wait()
    except TimeoutError:
        return False
    return True


async def keep_alive(
    name: str, body: Callable[[], Awaitable[None]], *, hopeless: Callable[[str], None], pause_s: float = 0.1
) -> None:
    """Run `body` until it returns or is cancelled; start it again whenever it raises.

    Ten deaths within a minute are hopeless: `hopeless(name)` is called, and nothing is started again.
    """
    deaths: deque[float] = deque(maxlen=HOPELESS_DEATHS)
    while True:
        try:
            return await body()
        except Exception as error:
            log.exception("loop.died", extra={"loop": name, "error": f"{type(error).__name__}: {clean(error, 300)}"})
        now = time.monotonic()
        deaths.append(now)
        if len(deaths) == HOPELESS_DEATHS and now - deaths[0] < HOPELESS_WITHIN_S:
            hopeless(name)
            return
        await asyncio.sleep(min(2.0, pause_s * 2 ** len(deaths)))


async def insist(call: Callable[[], Awaitable[None]]) -> None:
    """Make a call that is safe to send twice, and make it again when its answer got lost: it has no later occasion.

    Raises:
        BrokerError: of the last try; where there was one before, that one may have been applied.
    """
    for _ in range(TRIES - 1):
        with contextlib.suppress(UnknownOutcomeError):
            return await call()
    await call()


async def end_all(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Cancel these and return when all have ended.

    Asked again if they take long: `asyncio.wait_for` of Python 3.11 swallows a cancellation that meets what is done
    already, and a broker or backend of somebody else may use it. Not sooner, or closing a connection is cut short.
    """
    while pending := [task for task in tasks if not task.done()]:
        for task in pending:
            task.cancel()
        await asyncio.wait(pending, timeout=CANCEL_AGAIN_S)
