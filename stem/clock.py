"""Where time comes from on this machine; the broker's own time comes from the broker."""

from __future__ import annotations

import time
from typing import Final, Protocol

_BOOTTIME: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def boottime_s() -> float:
    """Return seconds that only ever grow, and go on while the machine sleeps, as a lease at the broker does.

    Linux' monotonic clock stands still then.
    """
    return time.clock_gettime(_BOOTTIME)


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


class BoottimeClock(SystemClock):
    """The clocks of the operating system for who watches: what is measured goes on while the machine sleeps."""

    def monotonic(self) -> float:
        return boottime_s()
