"""What operators asked for: pauses, drains, shutdowns, the log of commands behind them, and the replies to them."""

from __future__ import annotations

import itertools
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from stem.contracts import ChangeItem, Logged, Pause, PauseKind
from stem.errors import DecodeError
from stem.messages.command import Command, Reply

LOG_MS: Final = 86_400_000
LOG_KEPT: Final = 100_000
LOG_PAGE: Final = 1_000
REPLIES_KEPT: Final = 10_000


class DesiredState:
    """What is paused, drained or asked to stop now."""

    def __init__(self) -> None:
        self._pauses: dict[tuple[str, str], Pause] = {}
        self._drained: dict[str, None] = {}
        self._shutdown: dict[str, str] = {}

    @property
    def pauses(self) -> list[Pause]:
        return sorted(self._pauses.values(), key=lambda pause: (pause.kind, pause.target))

    @property
    def drained(self) -> Collection[str]:
        return tuple(self._drained)

    @property
    def shutdown(self) -> Mapping[str, str]:
        return dict(self._shutdown)

    def pause(self, kind: PauseKind, target: str) -> Pause | None:
        return self._pauses.get((kind, target))

    def paused(self, kind: PauseKind, target: str) -> bool:
        return (kind, target) in self._pauses

    def next_end_ms(self) -> int | None:
        """Return when the next pause ends by itself."""
        return min((pause.until_ms for pause in self._pauses.values() if pause.until_ms is not None), default=None)

    def end_pauses(self, now: int) -> list[str]:
        """Drop the pauses whose time is over; return the task names among them."""
        if not self._pauses:
            return []
        over = [key for key, pause in self._pauses.items() if pause.until_ms is not None and pause.until_ms <= now]
        for key in over:
            del self._pauses[key]
        return [target for kind, target in over if kind == "task"]

    def set_pause(self, pause: Pause) -> ChangeItem:
        """Pause; asking again without an end changes nothing, with an end it moves the end."""
        key = (pause.kind, pause.target)
        old = self._pauses.get(key)
        if old is not None and old.until_ms is None and pause.until_ms is None:
            return ChangeItem(target=pause.target, outcome="already", changed=False)
        self._pauses[key] = pause
        return ChangeItem(target=pause.target, outcome="set", changed=True)

    def clear_pause(self, kind: PauseKind, target: str) -> ChangeItem:
        return _cleared(target, self._pauses.pop((kind, target), None) is not None)

    def set_drain(self, worker: str) -> ChangeItem:
        if worker in self._drained:
            return ChangeItem(target=worker, outcome="already", changed=False)
        self._drained[worker] = None
        return ChangeItem(target=worker, outcome="set", changed=True)

    def clear_drain(self, worker: str) -> ChangeItem:
        was = worker in self._drained
        self._drained.pop(worker, None)
        return _cleared(worker, was)

    def set_shutdown(self, worker: str, mode: str) -> ChangeItem:
        if self._shutdown.get(worker) == mode:
            return ChangeItem(target=worker, outcome="already", changed=False)
        self._shutdown[worker] = mode
        return ChangeItem(target=worker, outcome="set", changed=True)

    def forget(self, worker: str) -> None:
        """Drop what was asked of one worker id: it said goodbye."""
        self._drained.pop(worker, None)
        self._shutdown.pop(worker, None)

    def forget_unknown(self, known: Callable[[str], bool]) -> None:
        """Drop what was asked of workers that are gone for good."""
        for worker in [one for one in (*self._drained, *self._shutdown) if not known(one)]:
            self.forget(worker)


def _cleared(target: str, was: bool) -> ChangeItem:
    return ChangeItem(target=target, outcome="cleared" if was else "already", changed=was)


@dataclass(frozen=True, slots=True)
class _Issue:
    epoch: int
    at_ms: int
    items: tuple[ChangeItem, ...]
    audit: str


class CommandLog:
    """The commands of the last 24 hours in order. A command's place in it is its epoch."""

    def __init__(self) -> None:
        self.epoch = 0
        self.fence = 0
        self._entries: deque[Logged] = deque(maxlen=LOG_KEPT)
        self._issues: OrderedDict[str, _Issue] = OrderedDict()

    def issued(self, command_id: str) -> tuple[int, Sequence[ChangeItem], str] | None:
        """Return what a command did when it came first, and its audit row; None if it is new."""
        issue = self._issues.get(command_id)
        return None if issue is None else (issue.epoch, issue.items, issue.audit)

    def append(self, command: Command, now: int, *, raises_fence: bool) -> int:
        """Log a command and return its epoch."""
        encoded = command.encode()  # first, because it may refuse
        self.epoch += 1
        if raises_fence:
            self.fence = self.epoch
        self._entries.append(Logged(epoch=self.epoch, issued_at_ms=now, command=encoded, signature=command.signature))
        while self._entries[0].issued_at_ms <= now - LOG_MS:
            self._entries.popleft()
        return self.epoch

    def remember(self, command_id: str, now: int, items: Sequence[ChangeItem], audit: str) -> None:
        """Keep the answer for a repeated call."""
        self._issues[command_id] = _Issue(self.epoch, now, tuple(items), audit)
        while next(iter(self._issues.values())).at_ms <= now - LOG_MS:
            self._issues.popitem(last=False)

    def after(self, epoch: int, now: int) -> list[Logged]:
        """Return the entries behind `epoch`, oldest first, at most 1 000: a reader goes on from the last one."""
        while self._entries and self._entries[0].issued_at_ms <= now - LOG_MS:
            self._entries.popleft()
        if not self._entries:
            return []
        # Epochs have no gaps, so an entry's place follows from its epoch.
        first = max(0, epoch + 1 - self._entries[0].epoch)
        return [self._entries[index] for index in range(first, min(first + LOG_PAGE, len(self._entries)))]


@dataclass(slots=True)
class _ReplyList:
    until_ms: int
    replies: deque[tuple[int, bytes]] = field(default_factory=lambda: deque(maxlen=REPLIES_KEPT))


class ReplyLists:
    """The replies to each command, numbered, as bytes, until their time is over. Each handle reads all of them."""

    def __init__(self) -> None:
        self._lists: dict[str, _ReplyList] = {}
        self._next_end_ms: int | None = None
        self._numbers = itertools.count(1)

    def append(self, command_id: str, reply: bytes, until_ms: int) -> None:
        replies = self._lists.setdefault(command_id, _ReplyList(until_ms))
        replies.until_ms = until_ms
        replies.replies.append((next(self._numbers), reply))
        if self._next_end_ms is None or until_ms < self._next_end_ms:
            self._next_end_ms = until_ms

    def after(self, command_id: str, number: int) -> tuple[list[Reply], int]:
        """Return what came behind this number, and the number of the last one; what cannot be read is dropped."""
        found = self._lists.get(command_id)
        replies = []
        for at, data in found.replies if found is not None else ():
            if at > number:
                number = at
                with suppress(DecodeError):
                    replies.append(Reply.decode(data))
        return replies, number

    def expire(self, now: int) -> None:
        if self._next_end_ms is not None and self._next_end_ms <= now:
            for command_id in [key for key, kept in self._lists.items() if kept.until_ms <= now]:
                del self._lists[command_id]
            self._next_end_ms = min((kept.until_ms for kept in self._lists.values()), default=None)
