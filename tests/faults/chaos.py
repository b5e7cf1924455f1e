"""A proxy that stands between Stem and its server, understands what passes, and misbehaves when told to.

    async with ChaosProxy(server.url, server.folder / "p") as proxy:
        world = worlds(server.url, STEM_BROKER_URL=proxy.url)
        with proxy.having(Fault(latency_s=0.05, where=of_kind("bell"))): ...
        proxy.on(Loss("exchange", nth={3}))            # the third answer never comes, and the connection is gone
        proxy.on(Watch(before=kill_at(7)))             # a worker dies before its seventh command reaches the server

It runs in a thread and on an event loop of its own, so that a test whose loop is busy delays nothing here. Rules may be
put on and taken off at any time and from any thread. Callbacks run on the loop that opened the proxy.

Nothing is ever reordered or repeated. A hole holds back what it swallows, like a network that comes back: the kernel
sends again what was not acknowledged, even for a process that has ended. A connection that is cut meanwhile loses it.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Coroutine, Iterator
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from stem.adapters.redis.address import parse_address
from tests.faults.resp import Cutter, is_error, is_pushed
from tests.faults.rules import Callback, Command, Fault, Link, Loss, Rule, Side, Watch, Where, everywhere

T = TypeVar("T")

CONNECT_S: Final = 5.0
OPEN_S: Final = 10.0
CHUNK: Final = 1 << 16
WAITING_CHUNKS: Final = 256


class ChaosProxy:
    """Passes everything on, in both directions, as its rules let it.

    Args:
        upstream: the server's URL; `upstream` may be changed for the connections to come.
        path: of the unix socket to listen on; a free TCP port of 127.0.0.1 when there is none.
        seed: for jitter, shares and corruption.

    Attributes:
        seen: commands by name. `lost`: answers by their command's name. `messages`: how many of subscriptions got lost.
        corrupted: bytes that were changed. `connections`: how many were accepted so far.
    """

    def __init__(self, upstream: str, path: Path | None = None, *, seed: int = 0) -> None:
        self.upstream = upstream
        self.seen: Counter[str] = Counter()
        self.lost: Counter[str] = Counter()
        self.messages = 0
        self.corrupted = 0
        self.connections = 0
        self._path = path
        self._port = 0
        self._random = random.Random(seed)
        self._rules: tuple[Rule, ...] = ()
        self._links: dict[Link, asyncio.Task[None]] = {}
        self._listening: socket.socket | None = None
        self._thread = threading.Thread(target=self._main, name="chaos-proxy", daemon=True)
        self._opened: Future[None] = Future()
        self._callers: asyncio.AbstractEventLoop | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._port}" if self._path is None else f"unix://{self._path}"

    # --------------------------------------------------------------------------------------------- any other thread

    def open(self) -> None:
        """Begin to listen; return when it does."""
        self._thread.start()
        self._opened.result(OPEN_S)

    def close(self) -> None:
        """Cut every connection and stop; return when nothing is left."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._closing.set)
            self._thread.join(OPEN_S)

    async def __aenter__(self) -> Self:
        self._callers = asyncio.get_running_loop()
        self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def on(self, rule: Rule) -> None:
        self._rules = (*self._rules, rule)
        self._loop.call_soon_threadsafe(self._wake)

    def off(self, *rules: Rule) -> None:
        """Take these off; all, when none is named."""
        self._rules = tuple(rule for rule in self._rules if rules and rule not in rules)
        self._loop.call_soon_threadsafe(self._wake)

    @contextlib.contextmanager
    def having(self, *rules: Rule) -> Iterator[None]:
        for rule in rules:
            self.on(rule)
        try:
            yield
        finally:
            self.off(*rules)

    def links(self, where: Where = everywhere) -> list[Link]:
        """Return the connections that there are now."""

        async def look() -> list[Link]:
            return [link for link in self._links if where(link)]

        return self._ask(look())

    def hang_up(self, where: Where = everywhere) -> int:
        """Close connections in an orderly way (FIN); return how many."""
        return self._ask(self._cut(where, reset=False))

    def reset(self, where: Where = everywhere) -> int:
        """Break connections off (RST; over a unix socket, what is on its way is lost); return how many."""
        return self._ask(self._cut(where, reset=True))

    def refuse(self) -> None:
        """Listen no more: whoever connects is refused. Connections that stand are left alone."""
        self._ask(self._stop_listening())

    def accept(self) -> None:
        """Listen again, at the same place."""
        self._ask(self._listen())

    def _ask(self, question: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(question, self._loop).result(OPEN_S)

    # ------------------------------------------------------------------------------------------------ its own thread

    def _main(self) -> None:
        asyncio.run(self._run())

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._closing = asyncio.Event()
        self._changed = asyncio.Event()
        try:
            await self._listen()
        except OSError as error:
            self._opened.set_exception(error)
            return
        self._opened.set_result(None)
        await self._closing.wait()
        await self._stop_listening()
        tasks = list(self._links.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    async def _listen(self) -> None:
        if self._listening is not None:
            return
        if self._path is not None:
            self._path.unlink(missing_ok=True)
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(str(self._path))
        else:
            listener = socket.create_server(("127.0.0.1", self._port))
            self._port = listener.getsockname()[1]
        listener.listen(1024)
        listener.setblocking(False)
        self._listening = listener
        self._loop.add_reader(listener, self._accept, listener)

    async def _stop_listening(self) -> None:
        listener, self._listening = self._listening, None
        if listener is not None:
            self._loop.remove_reader(listener)
            listener.close()

    def _accept(self, listener: socket.socket) -> None:
        # Not by `sock_accept`: one that is cancelled in the turn in which somebody came leaves the socket open.
        with contextlib.suppress(OSError):
            front, _ = listener.accept()
            self.connections += 1
            link = Link(self.connections, front)
            self._links[link] = task = self._loop.create_task(self._serve(link))
            task.add_done_callback(partial(self._forget, link))

    def _forget(self, link: Link, _: object) -> None:
        # Not at the end of `_serve`: that one may be cancelled before it begins, and while it ends.
        del self._links[link]
        for sock in (link.front, link.back):
            if sock is not None:
                _shut(sock, reset=link.reset)

    async def _cut(self, where: Where, *, reset: bool) -> int:
        chosen = [link for link in self._links if where(link) and not link.ended.is_set()]
        for link in chosen:
            link.cut(reset=reset)
        return len(chosen)

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _serve(self, link: Link) -> None:
        tasks: list[asyncio.Task[object]] = []
        try:
            link.back = await self._connect()
            for sock in (link.front, link.back):
                sock.setblocking(False)
                if sock.family == socket.AF_INET:
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            up, down = Lane(), Lane()
            works: list[Coroutine[Any, Any, object]] = [
                self._deliver(link, "down", link.front, down),
                link.ended.wait(),
                self._hear_client(link, up),
                self._deliver(link, "up", link.back, up),
                self._hear_server(link, link.back, down),
            ]
            tasks = [self._loop.create_task(work) for work in works]
            # Over when the server has no more to say; a client that is gone may still have sent something.
            await asyncio.wait(tasks[:2], return_when=asyncio.FIRST_COMPLETED)
        except OSError:
            link.reset = True  # no server there
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _connect(self) -> socket.socket:
        address = parse_address(self.upstream)
        back = socket.socket(socket.AF_INET if address.path is None else socket.AF_UNIX)
        where: Any = address.path or (address.host, address.port)
        back.setblocking(False)
        try:
            async with asyncio.timeout(CONNECT_S):
                await self._loop.sock_connect(back, where)
        except BaseException:
            back.close()
            raise
        return back

    async def _receive(self, sock: socket.socket) -> bytes:
        try:
            return await self._loop.sock_recv(sock, CHUNK)
        except OSError:  # broken off: its end, too
            return b""

    async def _hear_client(self, link: Link, lane: Lane) -> None:
        cutter = Cutter()
        while data := await self._receive(link.front):
            ready: list[bytes] = []
            lane.due = self._due(link, "up", lane.due)
            for frame in cutter.feed(data):
                command = None if cutter.lost else link.ask(frame)
                if command is not None and self._noticed(command):
                    await lane.put(ready)
                    ready = []
                    if not await self._heard(command, before=True):
                        return
                ready.append(frame)
            await lane.put(ready)
        lane.due = self._due(link, "up", lane.due)
        await lane.end()

    async def _hear_server(self, link: Link, back: socket.socket, lane: Lane) -> None:
        cutter = Cutter()
        while data := await self._receive(back):
            ready: list[bytes] = []
            lane.due = self._due(link, "down", lane.due)
            for frame in cutter.feed(data):
                command = None if cutter.lost else link.answer(frame)
                if command is None and self._message_lost(link, frame):
                    continue
                if command is not None and not await self._may_pass(link, command, frame):
                    await lane.put(ready)
                    return await lane.end()
                if not link.silent:
                    ready.append(frame)
            await lane.put(ready)
        lane.due = self._due(link, "down", lane.due)
        await lane.end()

    def _noticed(self, command: Command) -> bool:
        """Count a command; say whether anybody watches it."""
        self.seen[command.name] += 1
        for rule in self._rules:
            if isinstance(rule, Watch) and rule.takes(command):
                command.watched.append((rule, rule.seen))
        return bool(command.watched)

    async def _heard(self, command: Command, *, before: bool) -> bool:
        """Call who watches a command; False when one of them wants the connection cut here."""
        for watch, k in command.watched:
            callback = watch.before if before else watch.after
            if callback is not None and not await self._call(callback, k, command):
                command.link.cut()
                return False
        return True

    async def _may_pass(self, link: Link, command: Command, frame: bytes) -> bool:
        """Ask the watchers and the losses about an answer; False when the connection ends instead of it."""
        if not await self._heard(command, before=False):
            return False
        if is_error(frame) or link.silent:
            return True
        for rule in self._rules:
            if isinstance(rule, Loss) and rule.takes(command, self._random):
                self.lost[command.name] += 1
                if rule.then == "close":
                    return False
                link.silent = True
        return True

    def _message_lost(self, link: Link, frame: bytes) -> bool:
        lost = is_pushed(frame) and any(fault.no_messages for fault in self._faults(link, "down"))
        self.messages += lost
        return lost

    async def _call(self, callback: Callback, k: int, command: Command) -> bool:
        async def ask() -> bool | None:
            return await callback(k, command)

        if self._callers is None:
            return await ask() is not False
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(ask(), self._callers)) is not False

    # -------------------------------------------------------------------------------------------------- the weather

    def _faults(self, link: Link, side: Side) -> list[Fault]:
        return [rule for rule in self._rules if isinstance(rule, Fault) and side in rule.sides and rule.where(link)]

    def _due(self, link: Link, side: Side, last: float) -> float:
        """Return when what came now is to go on: never before what came earlier."""
        if not self._rules:
            return last
        faults = self._faults(link, side)
        late = sum(fault.latency_s + self._random.uniform(0, fault.jitter_s) for fault in faults)
        return max(last, self._loop.time() + late) if late else last

    async def _deliver(self, link: Link, side: Side, sock: socket.socket, lane: Lane) -> None:
        gone = False
        while True:
            due, data = await lane.queue.get()
            if due and (wait := due - self._loop.time()) > 0:
                await asyncio.sleep(wait)
            while any(fault.hole for fault in self._faults(link, side)):
                await self._changed.wait()
            with contextlib.suppress(OSError):
                if not data:
                    sock.shutdown(socket.SHUT_WR)
                elif not gone:
                    # Set back only when it is sent: who is gone takes nothing more, and the other side is still heard.
                    gone = True
                    await self._send(link, side, sock, data)
                    gone = False
            if not data:
                return

    async def _send(self, link: Link, side: Side, sock: socket.socket, data: bytes) -> None:
        faults = self._faults(link, side)
        for fault in faults:
            data = self._spoilt(fault, data)
        slices = [fault.slice_bytes for fault in faults if fault.slice_bytes]
        speeds = [fault.bytes_per_s for fault in faults if fault.bytes_per_s]
        size = min(slices + [max(1, speed // 50) for speed in speeds], default=len(data))
        for at in range(0, len(data), size):
            await self._loop.sock_sendall(sock, data[at : at + size])
            if size < len(data) or speeds:
                await asyncio.sleep(size / min(speeds) if speeds else 0)

    def _spoilt(self, fault: Fault, data: bytes) -> bytes:
        """Count the bytes that a fault has seen, and change those whose turn it is."""
        begin, every = fault.passed, fault.corrupt_every
        fault.passed += len(data)
        places = [fault.corrupt_at] if begin < fault.corrupt_at <= fault.passed else []
        while every and fault.next_spoilt <= fault.passed:
            if fault.next_spoilt > begin:
                places.append(fault.next_spoilt)
            fault.next_spoilt = max(begin, fault.next_spoilt) + self._random.randint(1, 2 * every - 1)
        if not places:
            return data
        fault.spoilt.append(data)
        spoilt = bytearray(data)
        for place in places:
            spoilt[place - begin - 1] ^= self._random.randint(1, 255)
            self.corrupted += 1
        return bytes(spoilt)


class Lane:
    """What waits to be delivered in one direction of one connection: (when, bytes), no bytes for its end."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(WAITING_CHUNKS)
        self.due = 0.0

    async def put(self, frames: list[bytes]) -> None:
        if frames:
            await self.queue.put((self.due, b"".join(frames)))

    async def end(self) -> None:
        await self.queue.put((self.due, b""))


def _shut(sock: socket.socket, *, reset: bool) -> None:
    if reset and sock.family == socket.AF_INET:
        # To linger for no time at all is to send RST.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
