"""What `u` brings back: what was so before, and nothing that somebody else had set."""

from __future__ import annotations

import pytest

from stem.clock import SystemClock
from stem.contracts import Pause
from stem.control.controller import Controller
from stem.observe.feed import take
from stem_tui import plans
from stem_tui.actions import BY_ID
from stem_tui.plans import Before, Plan
from tests.observe.builders import NOW, queue, snapshot, state
from tests.tui.still import text_of
from tests.tui.test_deeds import app_over, stocked
from tests.waiting import eventually


async def test_a_pause_that_replaced_another_one_is_taken_back_to_that_one() -> None:
    broker, made = await stocked("t-1")
    await Controller(broker, actor="ana").pause("queue", ["mail"], reason="migration")
    made.apply(await take(broker, clock=SystemClock()), 2.0)
    app = app_over(broker, made)
    async with app.run_test(size=(100, 30)) as pilot:
        await pilot.press("2", "H")
        await pilot.press(*"10m", "enter")

        async def held() -> list[tuple[str, bool]]:
            return [(pause.reason, pause.until_ms is None) for pause in await broker.census.pauses()]

        async def shortened() -> bool:
            return await held() == [("", False)]

        await eventually(shortened)
        await eventually(lambda: "u undo" in text_of(app))
        await pilot.press("u")

        async def as_it_was() -> bool:
            return await held() == [("migration", True)]

        await eventually(as_it_was)


@pytest.mark.parametrize(
    ("paused", "was"),
    [
        ({}, Before(way="resume")),
        ({"a": "x"}, None),
        ({"a": "x", "b": "x"}, Before(way="pause", reason="x")),
        ({"a": "x", "b": "y"}, None),
    ],
)
def test_what_was_different_is_not_offered_to_be_taken_back(paused: dict[str, str], was: Before | None) -> None:
    """One command cannot bring it back."""
    held = [Pause(kind="queue", target=target, reason=reason) for target, reason in paused.items()]
    made = state()
    made.apply(snapshot(queues=[queue("a"), queue("b")], pauses=held), 1.0)
    plan = Plan(action=BY_ID["queue.pause"], rows=list(made.queues.values()), way="pause")

    assert plans.before(plan, made, NOW) == was
