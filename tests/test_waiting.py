"""How long somebody who waits for a task bears a broker that is away."""

from __future__ import annotations

import pytest

from stem import waiting
from stem.errors import BrokerError, BrokerUnreachableError, UnknownOutcomeError
from stem.waiting import Waiting


class Clock:
    """`time.monotonic`, as far as it is put forward."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(waiting, "time", made)
    return made


def test_an_outage_is_borne_for_the_whole_patience_from_its_beginning(clock: Clock) -> None:
    """It was counted from when the slice of waiting began: a server that was away for a moment at its end was too
    much."""
    wait = Waiting("t-1", None, 5.0)
    wait.slice_s()
    clock.now += 5.0  # the broker was well, and told of no end
    error = BrokerUnreachableError("refused")

    assert wait.failed(error) > 0
    clock.now += 4.9
    assert wait.failed(error) > 0
    clock.now += 0.2
    with pytest.raises(BrokerUnreachableError):
        wait.failed(error)


def test_the_time_without_an_answer_is_part_of_the_outage(clock: Clock) -> None:
    wait = Waiting("t-1", None, 5.0)
    wait.slice_s()
    clock.now += 7.0
    error: BrokerError = UnknownOutcomeError("no answer")

    with pytest.raises(UnknownOutcomeError):
        wait.failed(error)
