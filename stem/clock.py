"""Where time comes from on this machine; the broker's own time comes from the broker."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Two clocks: one to measure with, one to tell people the time."""

    def monotonic(self) -> float:
        """Return seconds that only ever grow; for durations and deadlines."""

    def wall_ms(self) -> int:
        """Return Unix time in milliseconds; informational, never decides anything in the broker."""


class SystemClock:
    """The clocks of the operating system."""

    def monotonic(self) -> float:
        return time.monotonic()

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000
