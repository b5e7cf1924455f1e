"""From the attempt to the delay."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from stem.errors import InvalidInputError
from stem.retry import ExponentialJitterRetryStrategy, FixedRetryStrategy, RetryStrategy


def test_delays_double_up_to_the_longest() -> None:
    strategy = ExponentialJitterRetryStrategy(base=0.2, max=1.0, rng=lambda: 0.0)

    assert [pytest.approx(strategy.delay_s(attempt)) for attempt in range(5)] == [0.2, 0.4, 0.8, 1.0, 1.0]


def test_at_most_a_quarter_is_taken_off_at_random() -> None:
    strategy = ExponentialJitterRetryStrategy(base=1.0, max=1.0)

    delays = [strategy.delay_s(3) for _ in range(1000)]

    assert min(delays) >= 0.75
    assert max(delays) <= 1.0
    assert len(set(delays)) > 900


@pytest.mark.parametrize("attempt", [64, 1_000, 10**9])
def test_any_number_of_attempts_has_a_delay(attempt: int) -> None:
    assert ExponentialJitterRetryStrategy(base=0.001, max=300, rng=lambda: 0.0).delay_s(attempt) == 300


def test_durations_may_be_timedeltas() -> None:
    strategy = ExponentialJitterRetryStrategy(base=timedelta(milliseconds=200), max=timedelta(seconds=1))

    assert (strategy.base_s, strategy.max_s) == (0.2, 1.0)


def test_a_fixed_delay_stays_the_same() -> None:
    assert [FixedRetryStrategy(timedelta(seconds=7)).delay_s(attempt) for attempt in (0, 9)] == [7.0, 7.0]


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), True, "1", None])
def test_other_than_positive_durations_are_refused_by_name(value: Any) -> None:
    with pytest.raises(InvalidInputError, match="base="):
        ExponentialJitterRetryStrategy(base=value)
    with pytest.raises(InvalidInputError, match="delay="):
        FixedRetryStrategy(value)


def test_a_longest_delay_under_the_first_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="shorter than base"):
        ExponentialJitterRetryStrategy(base=2, max=1)


def test_both_are_retry_strategies() -> None:
    assert isinstance(FixedRetryStrategy(1), RetryStrategy)
    assert isinstance(ExponentialJitterRetryStrategy(), RetryStrategy)
    assert not isinstance(object(), RetryStrategy)
