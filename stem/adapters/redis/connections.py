"""The client library's connections, with one mend: a cancellation that meets a send is not lost."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import redis.asyncio


class _HeedsCancellation:
    """Raises a cancellation that `asyncio.wait_for` swallowed.

    On Python 3.11 it returns as if nothing had happened when what it waits for is done already, and redis-py sends
    through it: https://github.com/python/cpython/issues/86296. A loop that is cancelled once would go on for ever.
    """

    async def send_packed_command(self, command: bytes | str | Iterable[bytes], check_health: bool = True) -> None:
        task = asyncio.current_task()
        before = 0 if task is None else task.cancelling()
        parent: Any = super()
        await parent.send_packed_command(command, check_health)
        if task is not None and task.cancelling() > before:
            # As for every cancelled command: nobody is going to read its reply, so the connection ends with it.
            await parent.disconnect(nowait=True)
            raise asyncio.CancelledError


class TCPConnection(_HeedsCancellation, redis.asyncio.Connection):
    """A connection to a host and port."""


class UnixConnection(_HeedsCancellation, redis.asyncio.UnixDomainSocketConnection):
    """A connection to a unix socket."""
