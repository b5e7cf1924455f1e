"""The clock that stands still."""

from __future__ import annotations

import pytest

from stem.clock import Clock
from stem.testing import FakeClock


def test_it_moves_only_when_it_is_moved() -> None:
    clock: Clock = FakeClock(monotonic_s=10.0, wall_ms=1_000)

    assert (clock.monotonic(), clock.wall_ms()) == (10.0, 1_000)
    assert (clock.monotonic(), clock.wall_ms()) == (10.0, 1_000)


def test_both_hands_advance_together() -> None:
    """Many small steps are as far as one large one."""
    clock = FakeClock(monotonic_s=10.0, wall_ms=1_000)
    for _ in range(10):
        clock.advance(0.0005)

    assert clock.monotonic() == pytest.approx(10.005)
    assert clock.wall_ms() == 1_005


def test_the_wall_clock_may_be_set_back() -> None:
    clock = FakeClock(monotonic_s=10.0)
    clock.advance(5)
    clock.set_wall_ms(7)
    clock.advance(1)

    assert clock.monotonic() == 16.0
    assert clock.wall_ms() == 1_007


def test_it_does_not_go_back() -> None:
    with pytest.raises(ValueError, match="cannot advance by -1"):
        FakeClock().advance(-1)
