"""One wrapper around the client library: explicit options, no retries of its own, and errors that say what happened.

redis-py's own retries are off: with its defaults one lost reply becomes a second XADD. What is sent through here is
either a read or a script that is safe to send twice, and the caller decides whether to send it again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import socket
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any, Final, NoReturn

import redis
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from stem.adapters.redis import schema, tls
from stem.adapters.redis.address import Address
from stem.adapters.redis.connections import (
    BlockingPool,
    ClosedError,
    Pool,
    TCPConnection,
    TLSConnection,
    UnixConnection,
    ask,
    ask_many,
)
from stem.adapters.redis.keys import Keys
from stem.adapters.redis.reading import MISREAD
from stem.errors import BrokerError, BrokerRefusedError, BrokerUnreachableError, UnknownOutcomeError
from stem.text import clean

CONNECT_TIMEOUT_S: Final = 3.0
REPLY_TIMEOUT_S: Final = 7.0
"""An idle worker says something at least every 2 s: so a connection that carries nothing is noticed within 10 s."""
LONGEST_BLOCK_S: Final = 5.0

Arg = str | bytes | int
_UNREACHABLE_CODES: Final = frozenset({"LOADING", "BUSY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN"})
INCLUDES: Final[Mapping[str, tuple[str, ...]]] = {
    "adopt": ("records",),
    "beat": ("counts",),
    "enqueue": ("ready", "counts"),
    "exchange": ("ready", "counts", "records", "pauses", "settle", "fetch"),
    "issue": ("ready", "counts", "records", "pauses", "audit", "end_waiting"),
    "leave": ("records",),
    "purge": ("counts", "records", "end_waiting"),
    "queues": ("pauses",),
    "read": ("pauses",),
    "reconcile": ("ready", "records"),
    "record": ("audit",),
    "revive": ("ready", "counts", "records"),
    "sweep": ("ready", "counts", "records"),
}


class Script:
    """A Lua script with what it includes, known to servers by its SHA-1."""

    __slots__ = ("name", "sha", "text")

    def __init__(self, name: str) -> None:
        folder = resources.files("stem.adapters.redis") / "scripts"

        def read(part: str) -> str:
            return (folder / f"{part}.lua").read_text(encoding="utf-8")

        shebang, _, body = read(name).partition("\n")
        parts = [shebang, read("lib"), *(read(part) for part in INCLUDES.get(name, ())), body]
        self.name = name
        self.text = "\n".join(parts)
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


@cache
def script(name: str) -> Script:
    """Return the script in `scripts/<name>.lua`, read once."""
    return Script(name)


def _keepalive() -> dict[int, int]:
    """Options that make the kernel notice a dead peer in seconds; those this platform lacks are left out."""
    wanted = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 2, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 5_000}
    return {getattr(socket, name): value for name, value in wanted.items() if hasattr(socket, name)}


def _options(address: Address, *, reply_timeout_s: float, client_name: str) -> dict[str, Any]:
    options: dict[str, Any] = {
        "db": address.db,
        "username": address.username,
        "password": address.password,
        "socket_timeout": reply_timeout_s,
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "protocol": 2,
        "client_name": client_name,
        # CLIENT SETINFO is not in Redis 7.0 and not in minimal rights.
        "driver_info": None,
        "health_check_interval": 0,
        "decode_responses": False,
    }
    if address.path is not None:
        return options | {"unix_socket_path": address.path}
    options |= {
        "host": address.host,
        "port": address.port,
        "socket_keepalive": True,
        "socket_keepalive_options": _keepalive(),
    }
    return options if address.tls is None else options | tls.options_of(address.tls)


def make_pool(address: Address, *, reply_timeout_s: float, client_name: str, connections: int) -> Pool:
    """Return a pool of connections that are made on first use; nothing is retried.

    A call that finds all `connections` busy waits for one, up to `reply_timeout_s`.
    """
    options = _options(address, reply_timeout_s=reply_timeout_s, client_name=client_name)
    kind: type[TCPConnection | TLSConnection | UnixConnection] = TCPConnection if address.tls is None else TLSConnection
    if address.path is not None:
        kind = UnixConnection
        options["path"] = options.pop("unix_socket_path")
    return Pool(
        max_connections=connections,
        timeout=reply_timeout_s,
        connection_class=kind,
        retry=AsyncRetry(NoBackoff(), 0),
        **options,
    )


def make_blocking(address: Address, *, reply_timeout_s: float, client_name: str) -> redis.Redis:
    """Return a client for code without a loop; like `make_pool` otherwise."""
    options = _options(address, reply_timeout_s=reply_timeout_s, client_name=client_name)
    kind: type[redis.Connection] = redis.Connection if address.tls is None else redis.SSLConnection
    if address.path is not None:
        kind = redis.UnixDomainSocketConnection  # type: ignore[assignment] # in all that is used here
        options["path"] = options.pop("unix_socket_path")
    pool = BlockingPool(max_connections=100, connection_class=kind, retry=Retry(NoBackoff(), 0), **options)
    return redis.Redis.from_pool(pool)


def translate(error: Exception, *, what: str, address: Address) -> BrokerError:
    """Return the Stem error for one of the client library: applied no, unknown, or refused."""
    if type(error) is redis.ConnectionError and isinstance(error.__cause__, redis.RedisError):
        error = error.__cause__  # what the server answered while connecting to a unix socket
    text = clean(str(error), 300).rstrip(".")
    broker = f"the broker at {address}"
    forbidden = isinstance(error, redis.exceptions.NoPermissionError) or text.startswith(_FORBIDDEN_IN_SCRIPT)
    if forbidden or isinstance(error, redis.AuthenticationError):
        code = "NOPERM" if forbidden else "WRONGPASS" if text.startswith(_WRONG_PASSWORD) else "NOAUTH"
        return BrokerRefusedError(
            f"{broker} refused {what}: {text}. Check user, password and rights of the URL", code=code
        )
    if isinstance(error, ClosedError):
        return BrokerUnreachableError(f"this handle of {broker} was closed before {what}: make another one")
    code = _CODES.get(type(error)) or text.split(" ", 1)[0]
    if isinstance(error, redis.exceptions.BusyLoadingError) or code in _UNREACHABLE_CODES:
        return BrokerUnreachableError(f"{broker} is not ready for {what}: {text}. Try again in a moment")
    if "max number of clients" in text:  # said instead of a greeting: nothing has been sent
        return BrokerUnreachableError(
            f"{broker} takes no more connections, so none for {what}: {text}. Raise its maxclients, or look with "
            "CLIENT LIST who has them all"
        )
    if isinstance(error, redis.exceptions.MaxConnectionsError) or text == "No connection available":
        return BrokerUnreachableError(f"no connection to {broker} was free for {what}: use one Stem for all calls")
    if (address.tls is not None and (cause := tls.cause_of(text))) or (cause := _spoke_tls(text)):
        return BrokerUnreachableError(f"{broker} cannot be reached: {cause} ({text})")
    if isinstance(error, redis.ConnectionError | redis.TimeoutError | OSError) or code == _CUT_OFF:
        # The library connects inside of a command; only what failed there is certainly not applied.
        if "connecting to" in text:
            return BrokerUnreachableError(
                f"{broker} cannot be reached: {_reason(text)}. Is the server running, and is the URL right?"
            )
        how = "did not answer in time" if isinstance(error, TimeoutError | redis.TimeoutError) else f"was lost ({text})"
        reset = address.path is None and ("reset by peer" in text or "closed by server" in text)
        hint = tls.suspicion(address.tls) if reset else ""
        return UnknownOutcomeError(f"{broker} {how} during {what}: it may or may not have been done{hint}")
    if isinstance(error, (redis.exceptions.InvalidResponse, *MISREAD)):
        return UnknownOutcomeError(
            f"{broker} answered {what} with no Redis protocol ({type(error).__name__}: {text}): it may or may not have "
            "been done"
        )
    hint = _HINTS.get(code, "The server's log may say more")
    return BrokerRefusedError(f"{broker} refused {what}: {text}. {hint}", code=code)


_FORBIDDEN_IN_SCRIPT: Final = ("ACL failure in script", "The user executing the script can't")
"""How servers put it that a script was let in, and one of its commands, keys or channels was not."""
_WRONG_PASSWORD: Final = (
    "invalid username-password pair",
    "invalid password",
    "WRONGPASS",
    "AUTH <password> called without any password configured",
)
"""How servers put it that they know no such user with this password; the client library drops the word before it."""
_CODES: Final[Mapping[type[Exception], str]] = {
    redis.exceptions.AskError: "ASK",
    redis.exceptions.ClusterDownError: "CLUSTERDOWN",
    redis.exceptions.MasterDownError: "MASTERDOWN",
    redis.exceptions.MovedError: "MOVED",
    redis.exceptions.OutOfMemoryError: "OOM",
    redis.exceptions.ReadOnlyError: "READONLY",
    redis.exceptions.TryAgainError: "TRYAGAIN",
}
"""The first word of what these say is dropped by the client library."""
_CUT_OFF: Final = "UNBLOCKED"
"""What a server that becomes a replica says to whoever waits in a command, before it closes the connection."""
_HINTS: Final = {
    "OOM": "It is at its memory limit: raise it, or let workers catch up",
    "READONLY": "It is a replica: point the URL at the primary",
    "MISCONF": "It cannot write its data to disk: free space there",
    "ILLFORMED": "What arrived is not what Stem sends: look at what stands between here and the server",
    "NOREPLICAS": "It has too few replicas to take writes",
}


_OF_ONE_KEY: Final = ("WRONGTYPE", "NOGROUP", "no such key")


def of_one_key(error: Exception) -> bool:
    """Say whether a refusal is about the key that was asked for: it has another type, or is not there.

    Any other (rights, a busy server, a replica without its primary) tells nothing of what is stored there.
    """
    return isinstance(error, redis.ResponseError) and str(error).startswith(_OF_ONE_KEY)


def _spoke_tls(text: str) -> str:
    """Say so, if an answer is the alert with which a TLS port turns plain text away."""
    alert = text.startswith("Protocol Error: b'\\x15\\x03")
    return "it speaks TLS on this port: write rediss:// in the URL" if alert else ""


def _reason(text: str) -> str:
    """Return the system's words for `Error <errno> connecting to …`, or the text as it is."""
    found = re.match(r"Error (\d+) connecting to", text)
    return os.strerror(int(found[1])) if found else text


class RedisClient:
    """Scripts and commands of one namespace on one event loop. Connects on first use.

    Blocking commands have connections of their own, so that no wait ever delays a command.
    """

    def __init__(self, address: Address, keys: Keys, *, client_name: str) -> None:
        if address.tls is not None:
            tls.check(address.tls, where=str(address))
        self.address = address
        self.keys = keys
        self._pool = make_pool(address, reply_timeout_s=REPLY_TIMEOUT_S, client_name=client_name, connections=50)
        self._blocking = make_pool(
            address, reply_timeout_s=LONGEST_BLOCK_S + 5, client_name=client_name, connections=500
        )
        self._client_name = client_name
        self._readable = False
        self._marked = False

    async def run(self, name: str, *args: Arg) -> Any:
        """Run one script.

        Raises:
            BrokerError: see `translate`.
        """
        if not self._marked:
            await self._admit(writes=name not in schema.READERS)
        code = script(name)
        prefix, channels = self.keys.prefix, self.keys.channels
        try:
            try:
                return await ask(self._pool, "EVALSHA", code.sha, 1, prefix, channels, *args)
            except redis.exceptions.NoScriptError:
                # A server that was restarted or failed over: EVAL runs the script and loads it.
                return await ask(self._pool, "EVAL", code.text, 1, prefix, channels, *args)
        except (redis.RedisError, OSError, *MISREAD) as error:
            await self._fail(error, name)

    async def command(self, *args: Arg) -> Any:
        """Run one plain command that reads, or that is safe to send twice."""
        if not self._readable:
            await self._admit()
        try:
            return await ask(self._pool, *args)
        except (redis.RedisError, OSError, *MISREAD) as error:
            await self._fail(error, str(args[0]))

    async def commands(self, many: Sequence[Sequence[Arg]], *, each: bool = False) -> list[Any]:
        """Run plain commands in one round trip.

        Args:
            each: give None for a single one whose key is refused (see `of_one_key`), instead of raising.
        """
        if not many:
            return []
        if not self._readable:
            await self._admit()
        try:
            replies = await ask_many(self._pool, many, within_s=REPLY_TIMEOUT_S)
            for at, reply in enumerate(replies):
                if isinstance(reply, redis.ResponseError):
                    if not (each and of_one_key(reply)):
                        raise reply
                    replies[at] = None
            return replies
        except (redis.RedisError, OSError, *MISREAD) as error:
            await self._fail(error, str(many[0][0]))

    async def block(self, *args: Arg) -> Any:
        """Run a blocking command (at most `LONGEST_BLOCK_S`) on a connection of its own."""
        if not self._readable:
            await self._admit()
        try:
            return await ask(self._blocking, *args)
        except (redis.RedisError, OSError, *MISREAD) as error:
            await self._fail(error, str(args[0]))

    def lone_pool(self) -> Pool:
        """Return a pool of one connection, for one subscription or one blocking read; the caller closes it."""
        pool = make_pool(
            self.address, reply_timeout_s=LONGEST_BLOCK_S + 5, client_name=self._client_name, connections=1
        )
        pool.closed = self._pool.closed
        return pool

    async def _admit(self, *, writes: bool = False) -> None:
        """Look at the keyspace's version before the first call; write it where there is none and this call writes.

        First calls at the same time each look for themselves: behind one another they would add up their time-outs.
        """
        key = self.keys.schema
        try:
            found = await ask(self._pool, "GET", key)
            if found is None and writes:
                # A server that takes no plain writes now (memory, disk) may still take the call itself: the next
                # handle marks the keyspace then.
                with contextlib.suppress(redis.ResponseError):
                    found = await ask(self._pool, *schema.mark(key))
        except (redis.RedisError, OSError, *MISREAD) as error:
            if not schema.is_foreign(error):
                await self._fail(error, "GET")
            found = b""
        schema.check(found, namespace=self.keys.namespace, address=self.address)
        self._readable = True
        self._marked = self._marked or writes or found is not None

    async def _fail(self, error: Exception, what: str) -> NoReturn:
        if isinstance(error, redis.exceptions.ReadOnlyError):
            # The server was made a replica, and keeps its connections: only new ones lead to where the URL points now.
            with contextlib.suppress(redis.RedisError, OSError):
                await self._pool.disconnect(inuse_connections=False)
        raise translate(error, what=what, address=self.address) from error

    async def close(self) -> None:
        self._pool.closed = self._blocking.closed = True
        for pool in (self._pool, self._blocking):
            with contextlib.suppress(redis.RedisError, OSError):  # of what is gone anyway
                await pool.aclose()
