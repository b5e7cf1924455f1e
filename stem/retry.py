"""When a failed task runs again: pure rules from the attempt to a delay. Knows nothing of brokers."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import timedelta
from typing import Final, Protocol, runtime_checkable

from stem.errors import InvalidInputError

JITTER: Final = 0.25
"""The largest part that is taken off a delay at random, so that what failed together does not come back together."""


@runtime_checkable
class RetryStrategy(Protocol):
    """How long to wait before a task runs again."""

    def delay_s(self, attempt: int) -> float:
        """Return seconds to wait after a failure; `attempt` is 0 for the first one."""


class ExponentialJitterRetryStrategy:
    """``min(max, base * 2 ** attempt)``, less up to a quarter at random.

    Args:
        base: the first delay, in seconds or as a timedelta.
        max: the longest delay.
        rng: returns a number of [0, 1); given by tests.
    """

    __slots__ = ("_rng", "base_s", "max_s")

    def __init__(
        self,
        base: timedelta | float = 1.0,
        max: timedelta | float = 300.0,
        *,
        rng: Callable[[], float] = random.random,
    ) -> None:
        self.base_s: Final = _positive("base", base)
        self.max_s: Final = _positive("max", max)
        self._rng = rng
        if self.max_s < self.base_s:
            raise InvalidInputError(f"max ({self.max_s:g} s) is shorter than base ({self.base_s:g} s)")

    def delay_s(self, attempt: int) -> float:
        # 2 ** attempt is an integer of any size; past 64 doublings every base is over every max.
        delay = min(self.max_s, self.base_s * 2 ** min(attempt, 64)) if attempt > 0 else self.base_s
        return delay * (1.0 - JITTER * self._rng())

    def __repr__(self) -> str:
        return f"ExponentialJitterRetryStrategy(base={self.base_s:g}, max={self.max_s:g})"


class FixedRetryStrategy:
    """The same delay each time, without jitter."""

    __slots__ = ("seconds",)

    def __init__(self, delay: timedelta | float) -> None:
        self.seconds: Final = _positive("delay", delay)

    def delay_s(self, attempt: int) -> float:
        return self.seconds

    def __repr__(self) -> str:
        return f"FixedRetryStrategy({self.seconds:g})"


def _positive(name: str, value: timedelta | float) -> float:
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.001 <= value <= 315_360_000:
        raise InvalidInputError(f"{name}={value!r}: give seconds or a timedelta, from 1 ms to ten years")
    return float(value)
