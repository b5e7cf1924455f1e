"""The client library's connections, with two mends in how they send and one in how they end."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any

import redis
import redis.asyncio


class _Mended:
    """Raises a cancellation that `asyncio.wait_for` swallowed, and says of a closed transport that it is closed.

    On Python 3.11 `wait_for` returns as if nothing had happened when what it waits for is done already, and redis-py
    sends through it: https://github.com/python/cpython/issues/86296. A loop cancelled once would go on for ever.

    A transport of uvloop that was closed meanwhile (RST) raises a plain RuntimeError, which redis-py lets through.
    """

    async def send_packed_command(self, command: bytes | str | Iterable[bytes], check_health: bool = True) -> None:
        task = asyncio.current_task()
        before = 0 if task is None else task.cancelling()
        parent: Any = super()
        try:
            await parent.send_packed_command(command, check_health)
        except RuntimeError as error:
            raise redis.ConnectionError(f"Connection lost before sending: {error}") from error
        if task is not None and task.cancelling() > before:
            # As for every cancelled command: nobody is going to read its reply, so the connection ends with it.
            await parent.disconnect(nowait=True)
            raise asyncio.CancelledError


class TCPConnection(_Mended, redis.asyncio.Connection):
    """A connection to a host and port."""


class TLSConnection(_Mended, redis.asyncio.SSLConnection):
    """A connection to a host and port, with TLS."""


class UnixConnection(_Mended, redis.asyncio.UnixDomainSocketConnection):
    """A connection to a unix socket."""


async def to_the_end(closing: Coroutine[Any, Any, None]) -> None:
    """Close something wholly, also when cancelled meanwhile; the cancellation is raised afterwards.

    Cut short, the client library's `aclose` leaves a connection open that nobody knows of any more. It takes a moment,
    and at most the time-out of connecting.
    """
    task = asyncio.ensure_future(closing)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        if not task.cancelled():
            task.exception()
        raise cancelled
    task.result()
