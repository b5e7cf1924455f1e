"""Crash points are places in the code as it is now: one that has gone is an error, never a point that nobody passes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.faults.crashing import POINTS, find


@pytest.mark.parametrize("name", POINTS)
def test_each_crash_point_is_in_the_code(name: str) -> None:
    owner, attribute, function = find(POINTS[name])

    assert getattr(owner, attribute) is function


@pytest.mark.parametrize(
    "where", ["stem.worker.job:Job.is_gone", "stem.worker.job:Gone.call", "stem.worker.job:Job.id"]
)
def test_a_point_whose_function_has_gone_is_an_error(where: str) -> None:
    with pytest.raises(LookupError, match=f"crash point P3 .* no {where} any more"):
        find(replace(POINTS["P3"], where=where))
