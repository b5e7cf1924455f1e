"""The client library's connections: quicker and with two mends in how they send, and one in how they end."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any, Final, NoReturn

import hiredis
import redis
import redis.asyncio
from redis.asyncio.connection import AbstractConnection

_REPLIES: Final = 100
"""So many of one batch share a time-out."""
_UNSENT_BYTES: Final = 64 * 1024
"""Where a transport tells its writers to wait."""


class _Mended:
    """Packs in C, and sends what fits into the transport's buffer without a task, a timer or a turn of the loop.

    What does not fit goes the library's way, with two mends. On Python 3.11 `asyncio.wait_for`, through which it sends,
    returns as if nothing had happened when what it waits for is done already (cpython issue 86296). A loop
    cancelled once would go on for ever, so a cancellation that was swallowed is raised here. And a transport of uvloop
    that was closed meanwhile (RST) raises a plain RuntimeError, which the library lets through.
    """

    _writer: asyncio.StreamWriter | None

    def pack_command(self, *args: Any) -> list[bytes]:
        """Pack a command; the library packs those of asyncio connections in Python, argument by argument."""
        if b" " not in args[0] if isinstance(args[0], bytes) else " " not in args[0]:
            # An argument of another kind is the library's to take, or to refuse in its own words.
            with contextlib.suppress(TypeError):
                return [hiredis.pack_command(args)]
        parent: Any = super()
        packed: list[bytes] = parent.pack_command(*args)
        return packed

    async def send_packed_command(self, command: bytes | str | Iterable[bytes], check_health: bool = True) -> None:
        writer = self._writer
        if writer is not None and type(command) is list:
            transport = writer.transport
            if not transport.is_closing() and not transport.get_write_buffer_size():
                try:
                    writer.writelines(command)
                except (RuntimeError, OSError) as error:
                    await self._lost(error)
                if transport.get_write_buffer_size() <= _UNSENT_BYTES:
                    return
                command = []  # all that is left is to wait, not for ever, until the server has read enough of it
        await self._send_slowly(command, check_health)

    async def _send_slowly(self, command: bytes | str | Iterable[bytes], check_health: bool) -> None:
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

    async def _lost(self, error: Exception) -> NoReturn:
        parent: Any = super()
        await parent.disconnect(nowait=True)
        raise redis.ConnectionError(f"Connection lost before sending: {error}") from error


class TCPConnection(_Mended, redis.asyncio.Connection):
    """A connection to a host and port."""


class TLSConnection(_Mended, redis.asyncio.SSLConnection):
    """A connection to a host and port, with TLS.

    One that ends tells the server and does not wait for its answer (RFC 8446, 6.1). The library's stays open until that
    has come, which a server that hangs never sends; where the library does not wait for it, nobody does.
    """

    async def disconnect(self, *args: Any, **options: Any) -> None:
        writer = self._writer
        if writer is not None:
            writer.close()
            writer.transport.abort()
        await super().disconnect(*args, **options)


class UnixConnection(_Mended, redis.asyncio.UnixDomainSocketConnection):
    """A connection to a unix socket."""


class ClosedError(redis.ConnectionError):
    """The pool is closed; nothing was sent."""


class Pool(redis.asyncio.BlockingConnectionPool):
    """A pool that hands out and takes back what is idle and well without locks, timers and measurements.

    The library's own takes longer for that than a small command does. Everything else (a connection to be made or made
    anew, none free) goes its way.

    Once it is closed it stays so, and what was just being connected then is closed too: the library would hand it out,
    and nobody would ever close it.
    """

    _waiting = 0
    closed = False

    async def get_connection(self, command_name: object = None, *keys: object, **options: object) -> AbstractConnection:
        """Return a connection that is well.

        Raises:
            ClosedError: the pool is closed, or was closed meanwhile.
            redis.RedisError, OSError: it could not be made, or none was free in time.
        """
        if self.closed:
            raise ClosedError
        if self._available_connections and not self._waiting:
            connection: AbstractConnection = self.get_available_connection()  # type: ignore[no-untyped-call] # of redis-py
            try:
                if not await _well(connection):
                    await self.ensure_connection(connection)
            except BaseException:
                await self.release(connection)
                raise
        else:
            self._waiting += 1
            try:
                connection = await super().get_connection()  # type: ignore[no-untyped-call] # of redis-py
            except BaseException:
                await self._wake_another()
                raise
            finally:
                self._waiting -= 1
        await self._keep_closed(connection)
        return connection

    async def _wake_another(self) -> None:
        """Hand on that one is free: before Python 3.13, whoever is cancelled as it is told so keeps that to itself.

        That is cpython issue 112202. The next one would wait until another connection is given back, or its time ends.
        """
        if self.can_get_connection():
            async with self._condition:
                self._condition.notify()

    async def ensure_connection(self, connection: AbstractConnection) -> None:
        """Make it, or make it anew; the library takes one that ended with an error for well."""
        if not await _well(connection):
            await connection.disconnect(nowait=True)
        await super().ensure_connection(connection)

    async def _keep_closed(self, connection: AbstractConnection) -> None:
        if self.closed:
            await connection.disconnect(nowait=True)
            await self.release(connection)
            raise ClosedError

    async def aclose(self) -> None:
        self.closed = True
        await super().aclose()

    async def release(self, connection: AbstractConnection) -> None:
        if self._waiting or connection.should_reconnect():  # type: ignore[no-untyped-call] # of redis-py
            await super().release(connection)
            return
        self._in_use_connections.remove(connection)
        self._available_connections.append(connection)


async def _well(connection: AbstractConnection) -> bool:
    """Say whether it is connected, and carries nothing that nobody asked for."""
    writer = connection._writer
    # One that ended with an error (RST, keep-alive) has no end of the stream to be read: its transport alone knows.
    if writer is None or writer.transport.is_closing():
        return False
    try:
        return not await connection.can_read()
    except redis.ConnectionError:
        return False


async def ask(pool: Pool, *args: str | bytes | int) -> Any:
    """Send one command and return its reply as the server sent it, with no retry.

    The library's `execute_command` takes twice as long, and what it makes of a reply depends on its version.

    Raises:
        redis.RedisError: as the library's; a connection that failed is closed.
    """
    connection = await pool.get_connection()
    try:
        await connection.send_command(*args)
        return await connection.read_response()
    finally:
        await pool.release(connection)


async def ask_many(pool: Pool, many: Sequence[Sequence[str | bytes | int]], *, within_s: float) -> list[Any]:
    """Send commands in one go and return their replies, an error that is one of the server's among them.

    The library's pipeline takes twice the time for it, most of which goes into a time-out of each reply.

    Args:
        within_s: for each hundred of the replies.

    Raises:
        redis.RedisError, TimeoutError: the connection failed, and is closed.
    """
    replies: list[Any] = []
    connection = await pool.get_connection()
    try:
        packed = b"".join(part for command in many for part in connection.pack_command(*command))
        await connection.send_packed_command([packed])
        while len(replies) < len(many):
            async with asyncio.timeout(within_s):
                for _ in range(min(_REPLIES, len(many) - len(replies))):
                    try:
                        replies.append(await connection.read_response(timeout=math.inf))
                    except redis.ResponseError as error:
                        replies.append(error)
        return replies
    finally:
        await pool.release(connection)


class BlockingPool(redis.ConnectionPool):
    """The same for the blocking client, whose pool and measurements take as long as the rest of a small command."""

    def get_connection(
        self, command_name: object = None, *keys: object, within_s: float | None = None, **options: object
    ) -> Any:
        """Return a connection that is well; one that has to be made answers `within_s` or is given up."""
        self._checkpid()
        with self._lock:
            connection: Any = (
                self._available_connections.pop() if self._available_connections else self.make_connection()
            )
            self._in_use_connections.add(connection)
        try:
            try:
                well = connection.is_connected and not connection.can_read()
            except (redis.RedisError, OSError):
                well = False
            if not well:  # it is new, was closed, or carries what nobody asked for
                self._connect(connection, within_s)
        except BaseException:
            connection.disconnect()  # interrupted in its greeting, it would hand the rest of that to the next call
            self.release(connection)
            raise
        return connection

    def _connect(self, connection: Any, within_s: float | None) -> None:
        """Connect, or anew; `within_s` with other time-outs than usual."""
        usual = connection.socket_timeout, connection.socket_connect_timeout
        try:
            connection.disconnect()
            if within_s is not None:
                connection.socket_timeout, connection.socket_connect_timeout = (min(within_s, each) for each in usual)
            connection.connect()
        finally:  # before it is released: whoever takes it then would keep the short ones
            connection.socket_timeout, connection.socket_connect_timeout = usual
            connection.update_current_socket_timeout(usual[0])

    def release(self, connection: Any) -> None:
        self._checkpid()
        if connection.should_reconnect() or not self.owns_connection(connection):
            super().release(connection)
            return
        with self._lock:
            if connection in self._in_use_connections:
                self._in_use_connections.remove(connection)
                self._available_connections.append(connection)


def ask_blocking(pool: BlockingPool, *args: str | bytes | int, within_s: float | None = None) -> Any:
    """As `ask`, for code without a loop.

    Args:
        within_s: what the server may take to answer, instead of the pool's own time-out.
    """
    connection = pool.get_connection(within_s=within_s)
    answered = False
    try:
        connection.send_command(*args)
        reply = connection.read_response() if within_s is None else connection.read_response(timeout=within_s)
        answered = True
        return reply
    except redis.ResponseError:
        answered = True
        raise
    finally:
        # A signal's handler or a time limit may raise between any two lines, and whoever catches that calls again.
        if not answered:
            connection.disconnect()
        pool.release(connection)


def ask_many_blocking(pool: BlockingPool, many: Sequence[Sequence[str | bytes | int]]) -> list[Any]:
    """As `ask_many`, for code without a loop; each reply may take as long as the pool allows."""
    replies: list[Any] = []
    connection = pool.get_connection()
    try:
        connection.send_packed_command(connection.pack_commands(many))
        while len(replies) < len(many):
            try:
                replies.append(connection.read_response())
            except redis.ResponseError as error:
                replies.append(error)
        return replies
    finally:
        if len(replies) < len(many):
            connection.disconnect()
        pool.release(connection)


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
