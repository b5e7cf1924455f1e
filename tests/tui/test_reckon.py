"""How much there is to be acted upon: found behind a long queue of what it could not be done to."""

from __future__ import annotations

import pytest

from stem_tui import reckon
from stem_tui.actions import BY_ID
from stem_tui.plans import Plan
from stem_tui.reckon import Everything
from tests.tui.test_acting import bury, look_again
from tests.tui.test_deeds import stocked


@pytest.mark.parametrize("action", ["task.retry", "task.discard"])
async def test_dead_letters_are_found_behind_a_long_queue(monkeypatch: pytest.MonkeyPatch, action: str) -> None:
    """All that was read were tasks that wait, and there was said to be nothing."""
    monkeypatch.setattr(reckon, "PAGE", 2)
    monkeypatch.setattr(reckon, "LOOKED_AT", 4)
    broker, made = await stocked(*(f"t-{number}" for number in range(12)))
    await bury(broker, 3)
    await look_again(broker, made)
    everything = Everything(states=("running", "queued", "scheduled", "dead"), test=None, now_ms=0)

    found = await reckon.reckon(Plan(action=BY_ID[action], rows=[]), broker, made, everything)

    assert (found.amount, found.cut) == (3, False)
