"""The real worker and client, many times over, on a virtual clock and one in-memory broker: no fault breaks a promise.

`STEM_SIMULATION_SEEDS` says how many seeds to play here; `python -m tests.simulation` plays more, in several processes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from typing import Final

import pytest

from stem.adapters.memory import exchange
from stem.adapters.memory.core import Core
from stem.contracts import SettleAnswer, Settlement
from tests.simulation.scene import profile_of
from tests.simulation.world import simulate

SEEDS: Final = int(os.environ.get("STEM_SIMULATION_SEEDS", "105"))
BLOCK: Final = 35


@pytest.mark.timeout(120)
@pytest.mark.parametrize("first", range(0, SEEDS, BLOCK))
def test_no_invariant_is_violated_under_any_fault(first: int) -> None:
    """I1-I8, and I9 as far as the queue's pause goes: storms of faults, single crashes, freezes, lost replies, none."""
    reports = [simulate(seed, profile_of(seed)) for seed in range(first, min(first + BLOCK, SEEDS))]

    failed = [report.summary for report in reports if report.violations]
    assert not failed, "\n".join(failed)
    counts = sum((report.counts for report in reports), Counter[str]())
    # A simulation in which nothing happens proves nothing.
    for what in ("succeeded", "failed", "freeze", "crash", "reply lost", "lapsed", "requeued", "lost", "already"):
        assert counts[what], f"{what} never happened in the seeds from {first} on"


def test_without_the_fence_most_seeds_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that lets anybody settle a task that runs: the checks must see that, or they see nothing."""
    fenced = exchange._settle

    def unfenced(core: Core, worker: str, settlement: Settlement, now: int) -> SettleAnswer:
        record = core.records.get(settlement.id)
        if record is not None and record.owner:
            return fenced(core, record.owner, replace(settlement, token=record.token), now)
        return fenced(core, worker, settlement, now)

    monkeypatch.setattr(exchange, "_settle", unfenced)

    caught = [seed for seed in range(24) if simulate(seed, "freeze").violations]

    assert len(caught) > 16, caught


def test_the_same_seed_gives_the_same_trace() -> None:
    for seed in range(10):
        first, second = simulate(seed, profile_of(seed)), simulate(seed, profile_of(seed))
        assert first.trace == second.trace
    assert simulate(0).digest != simulate(2).digest


def test_the_trace_is_the_same_in_another_process() -> None:
    """Nor does it depend on the order of sets and the hashes of strings: a seed that failed elsewhere fails here."""
    code = "from tests.simulation.world import *; print(*[simulate(n, profile_of(n)).digest for n in range(4)])"
    there = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONHASHSEED": "12345"},
        capture_output=True,
        text=True,
        check=True,
        timeout=25,
    )

    assert there.stdout.split() == [simulate(seed, profile_of(seed)).digest for seed in range(4)]
