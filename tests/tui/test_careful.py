"""What a key is done to, and what a picture says that stands still, could not be had, or was too small for a moment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from textual.events import AppBlur, AppFocus

from stem.adapters.memory import InMemoryBroker
from stem.contracts import Pause
from stem.errors import BrokerUnreachableError
from stem.observe.rows import WorkerLine
from stem.observe.state import ClusterState
from stem_tui import plans
from stem_tui.actions import BY_ID
from stem_tui.app import StemTUI
from stem_tui.filter import FilterError, parse
from stem_tui.plans import Before, Plan
from stem_tui.screens.base import FilterInput, LiveScreen
from stem_tui.tasks import TABS
from stem_tui.widgets.command import CommandLine
from stem_tui.widgets.dialogs import Confirm
from stem_tui.widgets.grid import HEAD_LINES, Grid
from tests.observe.builders import NOW, final, fleet, queue, seen, snapshot, state
from tests.tui.still import make_app, make_session, settled, text_of
from tests.tui.test_acting import bury, look_again, typed
from tests.tui.test_deeds import answered, app_over, asked, stocked
from tests.waiting import eventually

SIZE = (160, 45)


async def test_the_id_and_the_command_of_each_kind_of_row_can_be_copied() -> None:
    app = make_app(make_session())
    async with app.run_test(size=SIZE) as pilot:
        for mode in "123456":
            await pilot.press(mode)
            await settled(pilot)
            for grid in app.screen.query(Grid):
                if grid.can_focus and grid.display and grid.rows:
                    grid.focus()
                    await pilot.press("y", "Y")
        await pilot.press("2")
        await settled(pilot)
        names = next(grid for grid in app.screen.query(Grid) if grid.view.kind == "name")
        names.focus()
        await pilot.press("y")

        assert app.is_running
        assert app.errors == []
        assert f"copied {names.rows[0].name}" in text_of(app)


async def test_an_event_is_copied_by_the_id_of_its_task() -> None:
    app = make_app(make_session())
    async with app.run_test(size=SIZE) as pilot:
        await pilot.press("5")
        await settled(pilot)
        grid = app.screen.query_one(Grid)
        assert grid.row is not None
        await pilot.press("y")

        assert f"copied {grid.row.task_id or grid.row.worker}" in text_of(app)


async def test_a_pause_in_a_queue_is_of_the_queue_whatever_row_the_cursor_is_on() -> None:
    broker, made = await stocked("t-1", "t-2")
    app = app_over(broker, made)
    async with app.run_test(size=(90, 26)) as pilot:
        await pilot.press("2", "enter")
        await eventually(lambda: "mail.send" in text_of(app))
        await pilot.press("P")
        await eventually(lambda: "queue mail paused" in text_of(app))

        assert [(pause.kind, pause.target) for pause in await broker.census.pauses()] == [("queue", "mail")]


async def test_a_pause_in_a_queue_is_of_the_rows_that_were_chosen_for_it() -> None:
    """Of every task name among them, after a question; without one the whole queue stood still at once."""
    broker, made = await stocked("t-1", "t-2")
    app = app_over(broker, made)
    async with app.run_test(size=(90, 26)) as pilot:
        await pilot.press("2", "enter")
        await eventually(lambda: "mail.send" in text_of(app))
        await pilot.press("percent_sign", "P")
        await eventually(lambda: isinstance(app.screen, Confirm))

        assert list(await broker.census.pauses()) == []


async def test_a_pause_in_a_queue_is_not_of_all_of_it_where_rows_were_chosen_that_have_none() -> None:
    """Names were marked in the panel beside its tasks, and the whole queue stood still."""
    broker = InMemoryBroker()
    app = app_over(broker, fleet())
    async with app.run_test(size=(160, 40)) as pilot:
        await pilot.press("2", "enter")
        await eventually(lambda: "BY TASK" in text_of(app))
        names = next(grid for grid in app.screen.query(Grid) if grid.view.kind == "name")
        names.focus()
        await eventually(lambda: names.row is not None)
        await pilot.press("percent_sign", "P")
        await eventually(lambda: "nothing can be done with the marked rows" in text_of(app))

        assert list(await broker.census.pauses()) == []


async def test_marks_go_with_their_rows() -> None:
    broker, made = await stocked("t-1", "t-2", "t-3")
    await bury(broker, 3)
    await look_again(broker, made)
    app = app_over(broker, made)
    async with app.run_test(size=(90, 26)) as pilot:
        await app.show_tasks("dead", "")
        await pilot.press("space", "space")
        assert "● 2 marked" in text_of(app)
        await pilot.press("D")
        await typed(pilot, await asked(app, pilot))
        await answered(app)
        await pilot.press("escape")
        await look_again(broker, made)
        await settled(pilot)
        assert "marked" not in text_of(app)

        await pilot.press("D")  # what is left is under the cursor
        await typed(pilot, await asked(app, pilot))
        assert "discarded" in await answered(app)
    (row,) = await broker.census.queues(["mail"])
    assert row.dead == 0


async def test_what_is_opened_in_a_frozen_picture_is_drawn_once() -> None:
    session = make_session()
    app = make_app(session)
    async with app.run_test(size=SIZE) as pilot:
        await settled(pilot)
        await pilot.press("z")
        session.state.queues["etl"].ready = 4_711
        await settled(pilot)
        assert "4,711" not in text_of(app)

        await pilot.press("question_mark")
        await settled(pilot)
        assert "ON A QUEUE" in text_of(app)
        await pilot.press("escape", "4")
        await settled(pilot)
        assert "RUNNING 4" in text_of(app)
        await pilot.press("l", "l", "l")
        await settled(pilot)
        assert "SMTPServerDisconnected" in text_of(app)
        assert "FROZEN" in text_of(app)


async def test_a_frozen_list_is_marked_sorted_and_filtered_as_it_was_frozen() -> None:
    session = make_session()
    app = make_app(session)
    async with app.run_test(size=(118, 45)) as pilot:
        await settled(pilot)
        grid = app.screen.query_one("#queues", Grid)
        await pilot.press("z")
        before = {row.name for row in grid.rows}
        session.state.apply(
            snapshot(queues=[queue("etl", ready=4_711), queue("fresh", ready=9)]), session.clock.monotonic()
        )
        for keys in (["space"], ["greater_than_sign"], ["I"], ["slash", "a", "escape"]):
            await pilot.press(*keys)
            await settled(pilot)
            assert {row.name for row in grid.rows} == before, keys
            assert "4,711" not in text_of(app), keys
            assert "13,282 ready" in text_of(app), keys
        await pilot.resize_terminal(110, 40)
        await settled(pilot)
        assert "4,711" not in text_of(app)

        await pilot.press("z")
        await settled(pilot)
        assert "4,711" in text_of(app)
        assert [row.name for row in grid.rows].count("fresh") == 1


@pytest.mark.parametrize("keys", ["2", "3", "4", "5", ["2", "enter"], ["3", "enter"]], ids=str)
async def test_a_frozen_screen_shows_nothing_new_when_it_is_drawn_anew(keys: Any) -> None:
    session = make_session()
    app = make_app(session)
    async with app.run_test(size=SIZE) as pilot:
        await pilot.press(*keys)
        await settled(pilot)
        await pilot.press("z")
        await settled(pilot)
        before = text_of(app).splitlines()[1:-3]
        state = session.state
        for line in state.queues.values():
            line.ready, line.in_flight, line.oldest_ms = 4_711, 815, 99_000
        for worker in state.workers.values():
            worker.in_flight, worker.rss_bytes, worker.diagnosis = 2, 99 << 20, "deaf"
        for row in state.tasks.values():
            row.progress, row.error = "99%", "Changed"
        state.events.clear()
        state.news.clear()
        live_screen = app.live_screen
        assert live_screen is not None
        live_screen.draw_anew()
        await pilot.pause()

        assert text_of(app).splitlines()[1:-3] == before


async def test_as_many_are_marked_as_a_key_acts_on() -> None:
    session = make_session()
    app = make_app(session)
    async with app.run_test(size=(118, 45)) as pilot:
        await settled(pilot)
        grid = app.screen.query_one("#queues", Grid)
        await pilot.press("space", "space")
        await settled(pilot)
        assert "● 2 marked" in text_of(app)
        gone = next(iter(grid.marked))
        del session.state.queues[gone]
        session.state.version += 1
        app.draw_now()
        await pilot.pause()

        assert len(grid.chosen()) == 1
        assert "● 1 marked" in text_of(app)


async def test_a_page_that_could_not_be_had_keeps_its_rows_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    broker, made = await stocked("t-1", "t-2")
    app = app_over(broker, made)

    async def fails(*_: object, **__: object) -> None:
        raise BrokerUnreachableError("the wire is cut, and this is a long story " * 8)

    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press("2", "enter")
        await eventually(lambda: "mail.send" in text_of(app))
        await pilot.press("j")
        grid = app.screen.query_one("#queue-tasks", Grid)
        before = grid.cursor_key
        monkeypatch.setattr(broker.census, "tasks", fails)
        screen = app.screen
        assert isinstance(screen, LiveScreen)
        screen._asked_s = -1_000.0  # type: ignore[attr-defined] # the clock of this session stands still
        await settled(pilot)
        await eventually(lambda: "✖ the wire is cut" in text_of(app))

        assert grid.cursor_key == before
        assert "mail.send" in text_of(app)


async def test_an_audit_that_could_not_be_had_is_not_an_empty_one(monkeypatch: pytest.MonkeyPatch) -> None:
    broker, made = await stocked("t-1")
    app = app_over(broker, made)

    async def fails(*_: object, **__: object) -> None:
        raise BrokerUnreachableError("the wire is cut, and this is a long story " * 8)

    monkeypatch.setattr(broker.census, "audit", fails)
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press("6")
        await settled(pilot)
        await eventually(lambda: "✖ the wire is cut" in text_of(app))

        assert "Nobody has commanded" not in text_of(app)


def test_a_pause_of_a_worker_that_is_gone_is_not_one_of_its_heir() -> None:
    made = ClusterState(lambda each: "lost" if each.lost else "healthy")
    made.apply(snapshot(workers=[seen("w-1-old", name="w-1"), seen("w-1-new", name="w-1")]), 1.0)
    old, new = made.workers["w-1-old"], made.workers["w-1-new"]
    old.diagnosis = "lost"

    def paused(row: WorkerLine) -> list[str]:
        return plans.targets(Plan(action=BY_ID["worker.pause"], rows=[row], way="pause"), made)

    assert paused(old) == ["w-1-old"]
    assert paused(new) == ["w-1"]


@pytest.mark.parametrize(
    ("held", "again"),
    [
        (
            [Pause(kind="queue", target="a", reason="r", until_ms=NOW + 60_000)],
            Before(way="pause", for_s=60.0, reason="r"),
        ),
        ([Pause(kind="queue", target="a"), Pause(kind="queue", target="b")], Before(way="pause")),
        ([Pause(kind="queue", target="a", until_ms=NOW + 60_000), Pause(kind="queue", target="b")], None),
        (
            [Pause(kind="queue", target="a", reason="x"), Pause(kind="task", target="a", reason="y")],
            Before(way="pause", reason="x"),
        ),
    ],
)
def test_what_is_resumed_is_paused_again_as_it_was_or_not_at_all(held: list[Pause], again: Before | None) -> None:
    made = ClusterState(lambda _: "healthy")
    made.pauses = held
    rows = [made.queue_line("a"), made.queue_line("b")]

    assert plans.before(Plan(action=BY_ID["queue.pause"], rows=rows, way="resume"), made, NOW) == again


async def test_a_filter_that_does_not_parse_shows_nothing_else() -> None:
    app = make_app(make_session())
    async with app.run_test(size=SIZE) as pilot:
        await settled(pilot)
        await pilot.press("colon")
        await eventually(lambda: isinstance(app.screen, CommandLine))
        await pilot.press(*"tasks age>1x")
        await pilot.press("enter")
        await eventually(lambda: "1x is not a number" in text_of(app))

        assert app.current_mode == "overview"
        screen = app.screen
        assert isinstance(screen, LiveScreen)
        test = screen._test(TABS["all"], "age>1x")
        assert test is not None
        assert not test(next(iter(app.session.state.tasks.values())), NOW)


def test_a_name_can_be_meant_as_a_whole() -> None:
    fields = TABS["all"].fields
    whole, part = parse("name:=mail.send", fields), parse("name:mail.send", fields)
    assert whole is not None
    assert part is not None
    made = ClusterState(lambda _: "healthy")
    made.apply(snapshot(history=[final("1"), final("2", task="mail.send_bulk"), final("3", task="crm.mail.send")]), 1.0)
    rows = list(made.tasks.values())

    assert [row.id for row in rows if whole(row, NOW)] == ["1"]
    assert sorted(row.id for row in rows if part(row, NOW)) == ["1", "2", "3"]
    with pytest.raises(FilterError):
        parse("nosuch:=x", fields)


async def test_a_terminal_that_was_too_small_for_a_moment_keeps_the_cursor() -> None:
    app = make_app(make_session())
    async with app.run_test(size=(100, 30)) as pilot:
        await pilot.press("2", "j")
        await settled(pilot)
        grid = app.screen.query_one("#all-queues", Grid)
        before = grid.cursor_key
        await pilot.resize_terminal(50, 10)
        await settled(pilot)
        await pilot.resize_terminal(100, 30)
        await settled(pilot)

        assert app.screen.focused is grid
        assert grid.cursor_key == before
        await pilot.press("k")
        assert grid.cursor_key != before


async def test_an_export_of_everything_has_what_stands_in_the_list_too(tmp_path: Path) -> None:
    broker, made = await stocked("t-1", "t-2")
    made.apply(snapshot(history=[final("gone-1"), final("gone-2")]), 3.0)
    app = app_over(broker, made)
    target = tmp_path / "all.jsonl"
    async with app.run_test(size=(90, 26)) as pilot:
        await app.show_tasks("all", "")
        await settled(pilot)
        await pilot.press("percent_sign", "e")
        await pilot.pause()
        await pilot.press("ctrl+u", *str(target), "enter")
        await eventually(lambda: "rows written" in text_of(app))

    ids = {json.loads(line)["id"] for line in target.read_text().splitlines()}
    assert ids == {"t-1", "t-2", "gone-1", "gone-2"}


def filter_line(app: StemTUI) -> FilterInput:
    return app.screen.query_one(FilterInput)


@pytest.mark.parametrize("way", ["tab", "shift+tab", "click"])
async def test_a_filter_line_that_is_left_for_another_panel_closes_and_stays_in_force(way: str) -> None:
    app = make_app(make_session())
    async with app.run_test(size=SIZE) as pilot:
        await settled(pilot)
        queues = app.screen.query_one("#queues", Grid)
        queues.focus()
        await pilot.press("slash", *"etl")
        await settled(pilot)
        if way == "click":
            await pilot.click("#workers", offset=(10, 3))
        else:
            await pilot.press(way)
        await settled(pilot)
        assert not filter_line(app).display
        assert [row.name for row in queues.rows] == ["etl"]

        app.screen.query_one("#workers", Grid).focus()
        await pilot.press("escape")
        await settled(pilot)
        assert not filter_line(app).display
        assert [row.name for row in queues.rows] == ["etl"], "escape is for the panel that has the focus"
        queues.focus()
        await pilot.press("escape")
        await settled(pilot)
        assert len(queues.rows) > 1
        await pilot.press("slash", "escape", "slash", *"mail")
        await settled(pilot)
        assert filter_line(app).display
        assert filter_line(app).value == "mail"


async def test_a_click_that_closes_the_filter_line_means_the_row_that_was_under_it() -> None:
    """The line has one row of the screen, which the panels get: they move while the button is still down."""
    made = state()
    queues, fleet = [queue(f"q{at:02}") for at in range(20)], [seen(f"host{at:02}-{at}-aa") for at in range(20)]
    made.apply(snapshot(queues=queues, workers=fleet), 1_000.0)
    app = make_app(make_session(made))
    async with app.run_test(size=(100, 40)) as pilot:
        await settled(pilot)
        app.screen.query_one("#queues", Grid).focus()
        await pilot.press("slash", "q")
        await settled(pilot)
        workers = app.screen.query_one("#workers", Grid)
        meant, at = workers.rows[2], (workers.region.x + 10, workers.region.y + HEAD_LINES + 2)

        await pilot.mouse_down(offset=at)
        await settled(pilot)
        await pilot.click("#workers", offset=(10, at[1] - workers.region.y))
        await settled(pilot)

        assert workers.row is meant
        assert not filter_line(app).display


async def test_a_filter_line_stays_open_while_the_terminal_is_out_of_focus() -> None:
    app = make_app(make_session())
    async with app.run_test(size=SIZE) as pilot:
        await settled(pilot)
        await pilot.press("slash", *"et")
        app.post_message(AppBlur())
        await settled(pilot)
        app.post_message(AppFocus())
        await settled(pilot)
        await pilot.press("l")
        await settled(pilot)

        assert filter_line(app).value == "etl"
        assert "⏎ keep" in text_of(app)
