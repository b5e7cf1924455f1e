"""Keeps the pauses of Python's collector of cycles short, whatever number of rows is held.

A full collection looks at every object there is: 60 to 200 ms with a hundred thousand tasks, which nothing is drawn in
and no key is taken. Rows are in no cycle; they go when nobody has them any more. So what stands is taken out of the
collector's sight again and again (`gc.freeze`), while it is little. What it would find there are screens that were
closed, and little else: after some of those, and once in ten minutes, it looks at everything.
"""

from __future__ import annotations

import gc
from typing import Final

EVERY_S: Final = 2.0
CLOSED: Final = 20
"""A closed screen with its widgets takes some hundred kilobytes."""
TURNS: Final = 300
"""Of `EVERY_S`: ten minutes."""


class Garbage:
    """Belongs to the event loop of the dashboard."""

    def __init__(self) -> None:
        self.closed = 0
        """Screens that were closed since everything was looked at."""
        self._turns = 0

    def settle(self) -> None:
        """Collect what is new, and let what is left of it rest: every `EVERY_S` seconds ten milliseconds' work."""
        self._turns += 1
        if self.closed >= CLOSED or self._turns >= TURNS:
            self.closed = self._turns = 0
            gc.unfreeze()
        gc.collect()
        gc.freeze()
