"""One pub/sub channel on a connection of its own, which notices when it has become deaf."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

import redis
from redis.asyncio.connection import AbstractConnection

from stem.adapters.redis.client import RedisClient
from stem.adapters.redis.connections import Pool, to_the_end

PING_EVERY_S: Final = 5.0
PONG_WITHIN_S: Final = 3.0
"""A half-open connection delivers nothing and says nothing: after so much silence it is asked whether it is there, and
has so long to say so."""


class Subscription:
    """A subscription to one channel; it ends with the first error, and another one has to be opened then.

    It reads the connection itself: the library's `PubSub` connects anew behind its caller's back, so that what was
    published meanwhile is lost unnoticed, and takes several times as long for a message.
    """

    def __init__(self, client: RedisClient, channel: str) -> None:
        self._channel = channel.encode()
        self._pool: Pool = client.lone_pool()
        self._connection: AbstractConnection | None = None
        self._heard = 0.0
        self._asked: float | None = None

    async def open(self) -> None:
        """Subscribe, and return once the server has confirmed it.

        Raises:
            redis.RedisError, OSError: the connection failed, or did not confirm it in time.
            ValueError: what came is no confirmation.
        """
        self._connection = await self._pool.get_connection()
        await self._connection.send_command("SUBSCRIBE", self._channel)
        confirmed = await self._connection.read_response(timeout=PONG_WITHIN_S)
        if confirmed is None:
            raise redis.TimeoutError(f"SUBSCRIBE was not confirmed in {PONG_WITHIN_S:g} s")
        if confirmed[:2] != [b"subscribe", self._channel]:
            raise ValueError(f"{confirmed!r} confirms no subscription")  # as deaf as none at all
        self._heard, self._asked = asyncio.get_running_loop().time(), None

    async def message(self, timeout_s: float) -> bytes | None:
        """Return what was published, None when `timeout_s` passed without anything.

        Raises:
            redis.RedisError, OSError: the connection is lost, or did not answer a PING in time.
            ValueError: what came is no message.
        """
        connection, loop = self._connection, asyncio.get_running_loop()
        assert connection is not None
        now = loop.time()
        deadline = now + timeout_s
        while True:
            if self._asked is None and now - self._heard > PING_EVERY_S:
                await connection.send_command("PING")
                self._asked = now
            if self._asked is not None and now - self._asked > PONG_WITHIN_S:
                raise redis.ConnectionError(f"it did not answer a PING in {PONG_WITHIN_S:g} s")
            due = self._asked + PONG_WITHIN_S if self._asked is not None else self._heard + PING_EVERY_S
            left_s = max(0.0, min(deadline, due + 0.01) - now)
            reply = await connection.read_response(timeout=left_s, disconnect_on_error=False)
            now = loop.time()
            if reply is not None:
                self._heard, self._asked = now, None
                if reply[0] == b"message" and len(reply) == 3 and type(reply[2]) is bytes:
                    return reply[2]
                if reply[0] != b"pong":
                    raise ValueError(f"{reply!r} is no message")
            elif now >= deadline:
                return None

    async def close(self) -> None:
        """End it. Never raises, and is done also when the caller is cancelled meanwhile."""
        connection, self._connection = self._connection, None

        async def end() -> None:
            with contextlib.suppress(redis.RedisError, OSError):
                if connection is not None:
                    await connection.disconnect(nowait=True)
                await self._pool.aclose()

        await to_the_end(end())
