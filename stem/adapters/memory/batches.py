"""Event batches of the last minute, as bytes, and who watches."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

from stem.contracts import EventBatch
from stem.errors import BodyTooLargeError, DecodeError, InvalidInputError
from stem.messages.event import Event, decode_events, encode_events

KEPT_MS: Final = 60_000
BATCHES_PER_READ: Final = 200


class Batches:
    """Numbered batches; a cursor is the number of the last one that was read."""

    def __init__(self) -> None:
        self._batches: deque[tuple[int, bytes]] = deque()
        self._dropped = 0
        self._watchers: dict[str, int] = {}

    @property
    def tail(self) -> str:
        return str(self._dropped + len(self._batches))

    def watched(self, now: int) -> bool:
        return any(until > now for until in self._watchers.values())

    def watch(self, watcher: str, until_ms: int, now: int) -> bool:
        """Hold a watch lease; True if nobody watched before."""
        self._watchers = {who: until for who, until in self._watchers.items() if until > now}
        first = not self._watchers
        self._watchers[watcher] = until_ms
        return first

    def unwatch(self, watcher: str) -> None:
        self._watchers.pop(watcher, None)

    def append(self, events: Sequence[Event], now: int) -> None:
        """Keep a batch; one that is too large is cut in two, a single event that is too large is dropped."""
        self.drop_old(now)
        try:
            self._batches.append((now, encode_events(events)))
        except BodyTooLargeError:
            if len(events) > 1:
                half = len(events) // 2
                self.append(events[:half], now)
                self.append(events[half:], now)

    def drop_old(self, now: int) -> None:
        while self._batches and self._batches[0][0] <= now - KEPT_MS:
            self._batches.popleft()
            self._dropped += 1

    def after(self, cursor: str, now: int) -> EventBatch:
        """Return the events behind a cursor; a batch that cannot be read is passed over.

        Raises:
            InvalidInputError: a cursor that was not made here.
        """
        if not (cursor.isascii() and cursor.isdigit() and len(cursor) <= 18):
            raise InvalidInputError(f"{cursor[:40]!a} is not an event cursor: take one from tail() or read()")
        self.drop_old(now)
        read = int(cursor)
        # A cursor from before what is kept, or from another life of this broker.
        missed = read < self._dropped or read > int(self.tail)
        skip = max(0, read - self._dropped)
        events: list[Event] = []
        last = min(len(self._batches), skip + BATCHES_PER_READ)
        for index in range(skip, last):
            try:
                events.extend(decode_events(self._batches[index][1]))
            except DecodeError:
                continue
        return EventBatch(events=events, cursor=str(self._dropped + last), missed=missed)
