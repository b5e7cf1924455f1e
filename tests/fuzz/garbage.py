"""A server that answers garbage: bytes, ill-formed replies, well-formed ones of any shape, and nearly right ones."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Mapping
from random import Random
from typing import Any, Final

from stem.adapters.redis.client import script
from tests.fuzz.corpus import nasty_strings
from tests.fuzz.mutate import EDGES, SMALL

ERRORS: Final = (
    *(b"ERR x", b"NOSCRIPT No matching script", b"WRONGTYPE x", b"OOM x", b"READONLY x", b"MOVED 1 h:1", b"ASK 1 h:1"),
    *(b"NOAUTH x", b"NOPERM x", b"LOADING x", b"BUSY x", b"", b"\xff\xfe", b"\x1b[2J", b"MISCONF x", b"EXECABORT x"),
)
ILL_FORMED: Final = (b"$999999999999\r\nx", b"*99999999\r\n", b"$-9\r\n", b"*-7\r\n", b":x\r\n", b"$3\r\nab\r\n")
UNASKED: Final = (
    *(b"*1\r\n" * 100, b"*2\r\n:1\r\n" * 30),
    *(b"%1\r\n+a\r\n:1\r\n", b"_\r\n", b"#t\r\n", b">1\r\n+x\r\n"),
)
"""Deeper than a client reads, and types of the protocol's other version."""

LATE: Final = [b"x", b"a", b"q", b"body", b"", b""]
ROW: Final = [b"t", b"a", 1, b"q", b"body", b"", b"5", 0, 0, 30_000, 1, 2, 0, 0]
RIGHT: Final[Mapping[str, Any]] = {
    "enqueue": [b"t", b"queued"],
    "exchange": [5, [1], [0, 0, -1, [ROW], [b"u"], [LATE]]],
    "adopt": [5, [ROW]],
    "sweep": [1, 1, b"", 0],
    "beat": [5, 1, 1, [b"t"], [b"t"], 1, 1],
    "issue": [1, 5, [b"t", b"revoked", b"1", b"w", b"queued"], [b"w", b"5", b"beat"], b"1-0"],
    "read": [1, 1, 5, [b"1", b"5", b"command", b"signature"], [b"queue:q", b"1\t0\tme\t"], [b"w"], [b"w", b"warm"]],
    "queues": [5, [[b"q", 1, 1, 1, 1, 1, 1, 5, 1]], []],
    "revive": [b"ok"],
    "reconcile": 1,
    "purge": 1,
    "store": 1,
    "wait": 0,
}
"""What each script gives; the garbage next to it reads as an answer, up to one wrong value.

Where a script gives something new, so does this: `test_the_replies_held_for_right_are_understood` says so.
"""


class Garbage:
    """Makes replies that no server sends.

    Attributes:
        given: how many so far.
        well: set it, and only right replies come from then on.
    """

    def __init__(self, random: Random) -> None:
        self.random = random
        self.given = 0
        self.well = False
        self._right = {script(name).sha.encode(): reply for name, reply in RIGHT.items()}

    def answer(self, asked: bytes) -> bytes | None:
        """Return what to send for what came in; None to hang up."""
        right = next((reply for sha, reply in self._right.items() if sha in asked), None)
        if self.well:
            return _right(asked, right)
        self.given += 1
        random = self.random
        if b"SETNAME" in asked and random.random() < 0.9:
            return b"+OK\r\n"
        if b"schema" in asked and random.random() < 0.8:
            return b"$-1\r\n" if b"NX" in asked or random.random() < 0.5 else b"$1\r\n1\r\n"
        if right is not None and random.random() < 0.6:
            return self.near(right)
        match random.randrange(12):
            case 0:
                return None
            case 1:
                return random.randbytes(random.choice((1, 10, 200))) + b"\r\n"
            case 2:
                return random.choice(ILL_FORMED)
            case 3:
                return random.choice(UNASKED)
            case 4:
                return b"-" + random.choice(ERRORS) + b"\r\n"
            case 5:
                return self.value(0)[:-3]
            case _:
                return self.value(0) * (2 if random.random() < 0.05 else 1)

    def near(self, right: Any) -> bytes:
        """Return a right reply with one value in it replaced, left out or repeated."""
        random = self.random
        if not isinstance(right, list) or not right or random.random() < 0.1:
            return self.value(2)
        items = [written(item) for item in right]
        at = random.randrange(len(items))
        match random.randrange(6):
            case 0:
                del items[at]
            case 1:
                items.insert(at, items[at])
            case _:
                items[at] = self.near(right[at])
        return b"*%d\r\n%b" % (len(items), b"".join(items))

    def value(self, depth: int) -> bytes:
        """Return one well-formed reply of any type and shape."""
        random = self.random
        kind = random.randrange(10)
        if kind < 5 and depth < 4:
            items = [self.value(depth + 1) for _ in range(random.choice((0, 1, 2, 3, 4, 5, 7, 14)))]
            return b"*%d\r\n%b" % (len(items), b"".join(items))
        if kind == 5:
            return b":%d\r\n" % (random.choice(EDGES) % 2**63)
        if kind == 6:
            return random.choice((b"$-1\r\n", b"*-1\r\n", b"+OK\r\n", b":0\r\n"))
        text = random.choice(nasty_strings()).encode("utf-8", "surrogatepass") if kind < 9 else random.choice(SMALL)
        return b"$%d\r\n%b\r\n" % (len(text), text)


def _right(asked: bytes, right: Any) -> bytes:
    """Return what a server says to a greeting, to a subscription, to the look at the version, or to a script."""
    if b"SETNAME" in asked:
        return b"+OK\r\n"
    if b"schema" in asked:
        return b"$1\r\n1\r\n"
    if b"SUBSCRIBE" in asked:
        return written([b"subscribe", asked.split(b"\r\n")[-2], 1])
    return b"+PONG\r\n" if right is None else written(right)


def written(value: Any) -> bytes:
    """Return a value as a server writes it."""
    if isinstance(value, list):
        return b"*%d\r\n%b" % (len(value), b"".join(written(item) for item in value))
    return b":%d\r\n" % value if isinstance(value, int) else b"$%d\r\n%b\r\n" % (len(value), value)


class FakeServer:
    """Answers whatever `answer` says, on a port of its own, in a thread of its own."""

    def __init__(self, answer: Callable[[bytes], bytes | None], *, drip_s: float = 0.0) -> None:
        self._answer = answer
        self._drip_s = drip_s
        self._loop = asyncio.new_event_loop()
        self._up = threading.Event()
        self._thread = threading.Thread(target=self._main, name="fake-server")
        self.port = 0

    def __enter__(self) -> FakeServer:
        self._thread.start()
        assert self._up.wait(5)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(5)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def _main(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._up.set()
        await self._stop.wait()
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = self._loop.create_task(self._talk(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            try:
                while asked := await reader.read(1 << 20):
                    reply = self._answer(asked)
                    if reply is None:
                        return
                    if self._drip_s:
                        for at in range(len(reply)):
                            writer.write(reply[at : at + 1])
                            await asyncio.sleep(self._drip_s)
                    else:
                        writer.write(reply)
                    await writer.drain()
            finally:
                writer.close()
