"""A clock that moves only when a test moves it."""

from __future__ import annotations

from typing import Final

START_WALL_MS: Final = 1_750_000_000_000


class FakeClock:
    """A `stem.clock.Clock` that stands still until `advance` or `set_wall_ms` is called.

    Nothing sleeps on it and nothing is called when it moves: who waits for a time must look again. Reading it from
    several threads is safe.
    """

    def __init__(self, *, monotonic_s: float = 1_000.0, wall_ms: int = START_WALL_MS) -> None:
        self._elapsed_s = 0.0
        self._monotonic_s = monotonic_s
        self._wall_ms = wall_ms

    def monotonic(self) -> float:
        return self._monotonic_s + self._elapsed_s

    def wall_ms(self) -> int:
        return self._wall_ms + round(self._elapsed_s * 1_000)

    def advance(self, seconds: float) -> None:
        """Move both clocks forward.

        Raises:
            ValueError: `seconds` is negative; a monotonic clock never goes back.
        """
        if seconds < 0:
            raise ValueError(f"a clock cannot advance by {seconds} s")
        self._elapsed_s += seconds

    def set_wall_ms(self, wall_ms: int) -> None:
        """Set the wall clock, also back, as somebody who corrects a machine's time; the monotonic one goes on."""
        self._wall_ms = wall_ms - round(self._elapsed_s * 1_000)
