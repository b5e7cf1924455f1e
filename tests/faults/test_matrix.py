"""Each family of the fault matrix, in its share (`make faults` plays them in full)."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from tests.faults.matrix.family import Family, all_families
from tests.faults.matrix.stage import perform


@pytest.mark.parametrize(
    "family",
    [pytest.param(one, id=one.id, marks=pytest.mark.timeout(one.share_s + 30)) for one in all_families()],
)
async def test_what_must_hold_holds_under(family: Family, tmp_path: Path) -> None:
    seed = secrets.randbelow(1_000_000)
    rows = await perform(family, scale="share", seed=seed, folder=tmp_path)

    assert rows
    broken = [f"{row.check} ({row.injected}): {text}" for row in rows if not row.held for text in row.violations]
    assert not broken, "\n".join(broken)
