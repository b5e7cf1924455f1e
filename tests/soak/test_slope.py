"""The slope that a soak judges by: found under noise, unmoved by wild samples, and unsure where it cannot know."""

from __future__ import annotations

import random

import pytest

from tests.soak.slope import fit

EVERY_S = 5.0
HOUR_S = 3600.0


def samples(per_hour: float, *, noise: float = 0.0, jump: float = 0.0, count: int = 90) -> list[tuple[float, float]]:
    """Return the samples of some minutes: hours and megabytes, a line with noise, and a jump in the middle."""
    chance = random.Random(7)
    hours = [number * EVERY_S / HOUR_S for number in range(count)]
    return [
        (hour, 40.0 + per_hour * hour + chance.gauss(0.0, noise) + (jump if number > count / 2 else 0.0))
        for number, hour in enumerate(hours)
    ]


def test_a_straight_line_is_exact() -> None:
    slope = fit(samples(3.0))

    assert slope.value == pytest.approx(3.0)
    assert slope.low == pytest.approx(3.0)
    assert slope.over(2.9)
    assert not slope.over(3.1)


def test_noise_alone_is_no_slope() -> None:
    slope = fit(samples(0.0, noise=0.2))

    assert slope.low < 0 < slope.high
    assert not slope.over(1.0)


def test_a_slope_is_found_under_noise() -> None:
    slope = fit(samples(20.0, noise=0.2))

    assert slope.value == pytest.approx(20.0, rel=0.3)
    assert slope.over(1.0)


def test_wild_samples_do_not_move_it() -> None:
    points = samples(0.0, noise=0.05)
    points[10:15] = [(x, y + 500.0) for x, y in points[10:15]]

    assert abs(fit(points).value) < 1.0


def test_one_jump_is_one_piece_of_news() -> None:
    """An allocator that takes half a megabyte once does not grow by that much in each such time."""
    assert not fit(samples(0.0, noise=0.01, jump=0.5)).over(1.0)


def test_a_rise_of_less_than_a_step_says_nothing_and_a_longer_look_tells() -> None:
    minutes, hour = samples(2.0, count=90), samples(2.0, count=720)

    assert fit(minutes).over(1.0)
    assert not fit(minutes, step=0.25).over(1.0)
    assert fit(hour, step=0.25).over(1.0)


def test_samples_that_do_not_move_at_all_are_sure() -> None:
    slope = fit([(float(number), 7.0) for number in range(20)])

    assert (slope.value, slope.low, slope.high) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("points", [[(float(n), 1.0) for n in range(7)], [(1.0, float(n)) for n in range(20)]])
def test_what_has_no_slope_is_an_error(points: list[tuple[float, float]]) -> None:
    with pytest.raises(ValueError, match="points"):
        fit(points)
