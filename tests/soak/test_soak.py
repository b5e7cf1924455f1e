"""A soak of some seconds, in full: everything is done to it at least once. `make soak` is the same for ten minutes."""

from __future__ import annotations

import secrets
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from tests.soak.__main__ import play
from tests.soak.gauges import ProcessSample
from tests.soak.report import complaints, markdown, summary
from tests.soak.run import LONG, Soaked

GENEROUS_MB_H = 400.0
"""So many seconds are hardly more than a warm-up, in which an allocator may take half a megabyte."""
MB = 1_000_000


@pytest.mark.slow
@pytest.mark.timeout(150)
async def test_nothing_grows_and_nothing_is_left_in_a_short_soak(tmp_path: Path) -> None:
    seed = secrets.randbelow(1_000_000)

    soaked, wrong = await play(seconds=10, per_s=200, seed=seed, folder=tmp_path / "soak", limit_mb_h=GENEROUS_MB_H)

    assert not wrong, "\n".join([*wrong, markdown(soaked)])
    assert soaked.tasks > 100
    assert soaked.done.keys() == {
        "answers lost",
        "command",
        "worker killed with -9",
        "worker stopped by SIGTERM",
        "server killed with -9",
    }
    assert min(soaked.done.values()) >= 1


def soaked(*, mb_per_hour: float = 0.0, blocks: int = 0) -> Soaked:
    """Return a soak of ten minutes in which the workers grew so much."""
    found = Soaked(600.0, tasks=300_000, done=Counter({"command": 600}), quiet_after_s=1.0)
    for name in LONG:
        first = ProcessSample(0.0, 50 * MB, 35 * MB, 22, 19)
        found.samples[name] = [
            replace(first, at_s=at_s, anon_bytes=round(35 * MB + mb_per_hour * MB * at_s / 3600))
            for at_s in range(0, 600, 5)
        ]
        found.before[name] = found.after[name] = first
        found.settled[name] = [{"blocks": 200_000}, {"blocks": 200_000 + blocks}]
    return found


def test_a_worker_that_stays_as_it_is_is_fine() -> None:
    assert complaints(soaked(mb_per_hour=0.9, blocks=2_000), 1.0) == []


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (soaked(mb_per_hour=4.0), "grows by"),
        (soaked(blocks=20_000), "more blocks of memory"),
        (replace(soaked(), violations=["1 lost: ['x']"]), "1 lost"),
        (replace(soaked(), quiet_after_s=None), "never came to an end"),
        (replace(soaked(), samples={}), "too few samples"),
    ],
    ids=["memory", "objects", "lost", "no end", "no samples"],
)
def test_what_does_not_hold_is_said(bad: Soaked, said: str) -> None:
    wrong = complaints(bad, 1.0)

    assert any(said in one for one in wrong), wrong
    assert "FAILED" in summary(bad, 1, wrong)
