"""What the proxy of chaos.py knows of connections and commands, and the rules by which it misbehaves."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections import deque
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from typing import Final, Literal

from tests.faults.resp import is_pushed, name_of, words_of

Side = Literal["up", "down"]
Kind = Literal["new", "commands", "vitals", "bell", "control", "subscription"]
Where = Callable[["Link"], bool]
Callback = Callable[[int, "Command"], Awaitable[bool | None]]

BOTH: Final[tuple[Side, ...]] = ("up", "down")
UP: Final[tuple[Side, ...]] = ("up",)
DOWN: Final[tuple[Side, ...]] = ("down",)

_VITALS: Final = frozenset(("sweep", "reconcile", "read", "reply", "emit", "leave"))
"""What only the vitals thread of a worker sends; `beat` is apart, because a handler may extend its lease with it."""


def everywhere(_link: Link) -> bool:
    return True


def of_kind(*kinds: Kind) -> Where:
    return lambda link: link.kind in kinds


def of_pid(pid: int) -> Where:
    """Match the connections of one process (unix sockets only)."""
    return lambda link: link.pid == pid


class Link:
    """One client's connection, and the one to the server that belongs to it. Belongs to the proxy's loop.

    Attributes:
        kind: what it is used for; `new` until its first command says so, then it stays what it is.
        name: as the client called it (`CLIENT SETNAME`).
        pid: the process at the other end; 0 over TCP.
        log: what was asked here, the last thousand.
    """

    def __init__(self, number: int, front: socket.socket) -> None:
        self.number = number
        self.kind: Kind = "new"
        self.name = ""
        self.pid = _peer(front)
        self.log: deque[str] = deque(maxlen=1000)
        self.front = front
        self.back: socket.socket | None = None
        self.waiting: deque[Command] = deque()
        self.silent = False
        self.reset = False
        self.ended = asyncio.Event()

    def ask(self, frame: bytes) -> Command | None:
        """Take note of a command; None for what is none (an empty line)."""
        name = name_of(frame)
        if not name:
            return None
        self.log.append(name)
        command = Command(name, frame, self)
        match name:
            case "CLIENT SETNAME":
                self.name = command.words[2].decode("utf-8", "replace")
            case "SUBSCRIBE" | "PSUBSCRIBE" | "UNSUBSCRIBE" | "PUNSUBSCRIBE":
                command.replies = max(1, len(command.words) - 1)
        if (kind := _kind_of(command)) != "new" and self.kind in ("new", "commands"):
            self.kind = kind
        self.waiting.append(command)
        return command

    def answer(self, frame: bytes) -> Command | None:
        """Return the command that this frame completes the answer to; None for messages and for parts."""
        if not self.waiting or is_pushed(frame):
            return None
        self.waiting[0].replies -= 1
        return self.waiting.popleft() if self.waiting[0].replies <= 0 else None

    def cut(self, *, reset: bool = False) -> None:
        self.reset = reset
        self.ended.set()


@dataclass(slots=True, eq=False)
class Command:
    """One command on its way. `name`: a script's own (`exchange`), or the command's words in capitals (`BLPOP`)."""

    name: str
    frame: bytes = field(repr=False)
    link: Link = field(repr=False)
    replies: int = 1
    watched: list[tuple[Watch, int]] = field(default_factory=list, repr=False)

    @property
    def words(self) -> list[bytes]:
        return words_of(self.frame)


def _kind_of(command: Command) -> Kind:
    match command.name:
        case "BLPOP":
            return "bell"
        case "SUBSCRIBE" | "PSUBSCRIBE":
            return "control" if command.words[1].endswith(b":control") else "subscription"
        case "beat":
            return "vitals" if command.words[8] else "commands"  # with a heartbeat in it
        case "GET" | "SET" | "HELLO" | "AUTH" | "SELECT" | "PING" | "ECHO":
            return "new"  # what every connection may begin with
        case name:
            return "vitals" if name in _VITALS else "new" if name.startswith("CLIENT ") else "commands"


def _named(names: str | Collection[str]) -> frozenset[str]:
    return frozenset((names,)) if isinstance(names, str) else frozenset(names)


@dataclass(slots=True, eq=False, kw_only=True)
class Fault:
    """Bad weather on some connections, on one side (`UP` is towards the server) or both.

    Attributes:
        latency_s, jitter_s: everything comes later by this, and by up to this much more at random.
        slice_bytes: how much is written at a time.
        bytes_per_s: how much gets through.
        hole: nothing gets through, not even the end of a connection; sockets stay open.
        no_messages: messages of subscriptions get lost.
        corrupt_at: this byte is changed, counted from 1 over all matching connections and both sides.
        corrupt_every: one byte in so many is changed, on average.
        passed: bytes that came by so far. spoilt: what was changed, as it was before.
    """

    where: Where = everywhere
    sides: tuple[Side, ...] = BOTH
    latency_s: float = 0.0
    jitter_s: float = 0.0
    slice_bytes: int = 0
    bytes_per_s: int = 0
    hole: bool = False
    no_messages: bool = False
    corrupt_at: int = 0
    corrupt_every: int = 0
    passed: int = 0
    next_spoilt: int = 0
    spoilt: list[bytes] = field(default_factory=list, repr=False)


class Loss:
    """Answers that never come, although the server did what was asked. Refusals (errors) are not among them.

    Args:
        names: of commands; none given means all.
        nth: which of the matching answers, counted from 1.
        share: or each with this chance.
        then: `close` the connection, or be silent on it from then on: the client runs into its time-out.

    Attributes:
        seen, lost: matching answers so far, and how many of them were lost.
    """

    def __init__(
        self,
        names: str | Collection[str] = (),
        *,
        nth: Collection[int] = (),
        share: float = 0.0,
        then: Literal["close", "silence"] = "close",
        where: Where = everywhere,
    ) -> None:
        self.names = _named(names)
        self.nth = frozenset(nth)
        self.share = share
        self.then = then
        self.where = where
        self.seen = 0
        self.lost = 0

    def takes(self, command: Command, chance: random.Random) -> bool:
        if (self.names and command.name not in self.names) or not self.where(command.link):
            return False
        self.seen += 1
        taken = self.seen in self.nth or (self.share > 0 and chance.random() < self.share)
        self.lost += taken
        return taken


class Watch:
    """Somebody who is called at every matching command, and for whom it waits.

    Args:
        before: called with (k, command) before the k-th goes to the server.
        after: called with the same k once the server has answered it, before the answer goes on.

    Either may return False: then the command (or the answer) goes nowhere and the connection is cut.

    Attributes:
        seen: matching commands so far.
    """

    def __init__(
        self,
        names: str | Collection[str] = (),
        *,
        before: Callback | None = None,
        after: Callback | None = None,
        where: Where = everywhere,
    ) -> None:
        self.names = _named(names)
        self.before = before
        self.after = after
        self.where = where
        self.seen = 0

    def takes(self, command: Command) -> bool:
        if (self.names and command.name not in self.names) or not self.where(command.link):
            return False
        self.seen += 1
        return True


Rule = Fault | Loss | Watch


def _peer(sock: socket.socket) -> int:
    """Return the process id at the other end of a unix socket; 0 where that is not known."""
    if sock.family != socket.AF_UNIX or not hasattr(socket, "SO_PEERCRED"):
        return 0
    pid: int = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
    return pid
