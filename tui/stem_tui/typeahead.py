"""One key after the other: a key that came before the last one had done its work waits for that.

Textual (8.2) sends a key to whatever has the focus when it comes, and looks up what it means once it has travelled from
there up to the app. Of what is typed quickly or pasted, the letters after `/` or `:` would so be on their way to the
list, as commands, before the line that they were meant for is there.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

from textual import events
from textual.app import App
from textual.dom import DOMNode
from textual.message_pump import MessagePump

ROUNDS: Final = 3
"""Ways from the focus to the app: for the key itself, for what it posted, and for what that led to."""
LONGEST_S: Final = 0.5
"""From queue to queue. A widget that went away meanwhile answers no more; nor does one whose handler waits."""


class TypeAhead:
    """Belongs to the app and its event loop."""

    def __init__(self, app: App[Any]) -> None:
        self._app = app
        self._kept: deque[events.Key] = deque()
        self._due: events.Key | None = None
        self._under_way = 0
        self._limit: asyncio.TimerHandle | None = None

    def may_go(self, key: events.Key) -> bool:
        """Say whether this key may go to the focus now; else it is kept, and comes again when its turn is."""
        if self._limit is not None and key is not self._due:
            self._kept.append(key)
            return False
        self._due = None
        self._under_way += 1
        self._wait(self._under_way)
        return True

    def gone(self) -> None:
        """Follow the key that has just been sent to the focus."""
        self._follow(self._under_way, [], ROUNDS)

    def _wait(self, key: int) -> None:
        if self._limit is not None:
            self._limit.cancel()
        self._limit = asyncio.get_running_loop().call_later(LONGEST_S, self._done, key)

    def _follow(self, key: int, way: Sequence[DOMNode], rounds: int) -> None:
        """Go where the key goes, queue by queue, behind it and behind what it posted there."""
        if self._over(key):
            return
        self._wait(key)  # a loop that stood still for long is no widget that went away
        while way:
            node, *way = way
            if isinstance(node, MessagePump) and node.call_later(self._follow, key, way, rounds):
                return
        if rounds:
            target = self._app.focused or self._app.screen
            self._follow(key, target.ancestors_with_self, rounds - 1)
        else:
            self._done(key)

    def _over(self, key: int) -> bool:
        """Say whether this key's time is over: another one is under way, or about to be."""
        return key != self._under_way or self._limit is None or self._due is not None

    def _done(self, key: int) -> None:
        if self._over(key) or self._limit is None:
            return
        self._limit.cancel()
        if self._kept:
            self._due = self._kept.popleft()
            self._app.post_message(self._due)
        else:
            self._limit = None
