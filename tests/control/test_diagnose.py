"""One word for the state of a worker, each with the evidence it needs."""

from __future__ import annotations

from typing import Any

import pytest

from stem.contracts import Seen
from stem.control.diagnose import MEANING, diagnose
from tests.control.channel import START_MS, beat, seen


@pytest.mark.parametrize(
    ("expected", "age_ms", "fields"),
    [
        ("healthy", 500, {}),
        ("busy", 500, {"in_flight": 4}),
        ("wedged", 500, {"loop_age_ms": 2_001}),
        ("wedged", 500, {"loop_age_ms": 2_001, "in_flight": 4, "state": "draining"}),
        ("healthy", 500, {"loop_age_ms": 2_000}),
        ("draining", 500, {"state": "draining"}),
        ("draining", 500, {"state": "stopping", "in_flight": 4}),
        ("healthy", 500, {"state": "starting"}),
        ("healthy", 6_000, {}),
        ("lost", 6_001, {"loop_age_ms": 9_000}),
        ("stopped", 6_001, {"state": "stopped"}),
        ("stopped", 100, {"state": "stopped"}),
        ("healthy", 6_001, {"interval_ms": 5_000}),
    ],
)
def test_the_heartbeat_alone(expected: str, age_ms: int, fields: dict[str, Any]) -> None:
    assert diagnose(seen("a", age_ms=age_ms, **fields)) == expected


def test_an_answer_is_newer_than_an_old_beat() -> None:
    assert diagnose(seen("a", age_ms=9_000), answered=True) == "healthy"


def test_silence_with_a_newer_beat_is_deaf() -> None:
    worker = Seen(heartbeat=beat("a"), at_ms=START_MS + 1, age_ms=100)

    assert diagnose(worker, answered=False, issued_at_ms=START_MS) == "deaf"


def test_silence_while_the_work_loop_is_blocked_is_wedged_not_deaf() -> None:
    """A revoke and a pause wait for the work loop, so their answer waits as well."""
    worker = Seen(heartbeat=beat("a", loop_age_ms=9_000), at_ms=START_MS + 1, age_ms=100)

    assert diagnose(worker, answered=False, issued_at_ms=START_MS) == "wedged"


def test_silence_with_an_overdue_beat_is_lost_before_the_three_intervals_are_over() -> None:
    worker = Seen(heartbeat=beat("a"), at_ms=START_MS - 100, age_ms=5_000)

    assert diagnose(worker, answered=False, issued_at_ms=START_MS) == "lost"


def test_silence_before_the_next_beat_is_due_is_only_silence() -> None:
    worker = Seen(heartbeat=beat("a"), at_ms=START_MS - 100, age_ms=600)

    assert diagnose(worker, answered=False, issued_at_ms=START_MS) == "deaf"


def test_every_word_has_a_meaning() -> None:
    assert set(MEANING) == {"healthy", "busy", "wedged", "deaf", "lost", "draining", "stopped"}
