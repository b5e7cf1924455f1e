"""What a list says of its order and of what it holds, and where its cursor is when rows move."""

from __future__ import annotations

import pytest

from stem.messages.status import TaskState
from stem_tui.widgets.grid import Grid
from tests.observe.builders import page, queue, snapshot, status
from tests.tui.still import make_app, make_session, settled, text_of


async def test_a_list_that_is_not_the_whole_does_not_look_like_a_total() -> None:
    session = make_session()
    many = [status(f"t-{number}", TaskState.QUEUED) for number in range(20)]
    session.state.apply(snapshot(pages={"queued": page(*many, more=True)}), session.clock.monotonic())
    app = make_app(session)
    async with app.run_test(size=(160, 45)) as pilot:
        await app.show_tasks("all", "")
        await settled(pilot)
        listed = len(app.screen.query_one(Grid).rows)
        assert f"ALL {listed:,} listed" in text_of(app)
        assert "the first 20 queued are listed" in text_of(app)

        await app.show_tasks("all", "state:queued")
        await settled(pilot)
        assert f"20 of {listed:,} listed" in text_of(app)

        await app.show_tasks("queued", "id:t-1")
        await settled(pilot)
        assert "11 of 20 listed" in text_of(app)


@pytest.mark.parametrize(("mode", "panel"), [("1", "#queues"), ("1", "#failures"), ("1", "#running"), ("4", "#tasks")])
async def test_the_order_that_a_list_has_by_itself_turns_round_and_says_so(mode: str, panel: str) -> None:
    app = make_app(make_session())
    async with app.run_test(size=(160, 45)) as pilot:
        await pilot.press(mode)
        await settled(pilot)
        grid = app.screen.query_one(panel, Grid)
        grid.focus()
        await settled(pilot)
        before = [grid.view.key(row) for row in grid.rows]
        await pilot.press("I")
        await settled(pilot)
        assert [grid.view.key(row) for row in grid.rows] == before[::-1]
        assert "turned round" in text_of(app)

        await pilot.press("I")
        await settled(pilot)
        assert [grid.view.key(row) for row in grid.rows] == before
        assert "turned round" not in text_of(app)


async def test_events_say_that_they_have_one_order() -> None:
    app = make_app(make_session())
    async with app.run_test(size=(160, 45)) as pilot:
        await pilot.press("5", "I")
        await settled(pilot)

        assert "EVENTS have one order: the newest first" in text_of(app)


async def test_a_first_row_that_somebody_moved_to_is_found_again_wherever_it_goes() -> None:
    session = make_session()
    queues = [queue(f"q-{number:02}", ready=100 - number) for number in range(60)]
    session.state.apply(snapshot(queues=queues), session.clock.monotonic())
    app = make_app(session)
    async with app.run_test(size=(100, 30)) as pilot:
        await settled(pilot)
        await pilot.press("j", "g")
        grid = app.screen.query_one("#queues", Grid)
        assert grid.row is not None
        assert grid.row.name == "q-00"

        session.state.queues["q-00"].ready = 0
        await settled(pilot)
        assert grid.rows[-1].name == "q-00"
        assert grid.row.name == "q-00"

        del session.state.queues["q-00"]
        await settled(pilot)
        assert grid.row is grid.rows[-1]
