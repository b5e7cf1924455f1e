"""Each screen at each size, in each state of the link; nothing hostile gets through; one bad panel harms no other."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import stem_tui
from stem.adapters.memory import InMemoryBroker
from stem.messages.status import TaskState
from stem_tui import details, select
from stem_tui.screens.base import FilterInput, LiveScreen
from stem_tui.screens.details import WorkerScreen
from stem_tui.theme import PALETTES, TONES, Look
from stem_tui.widgets.grid import Grid
from tests.observe.builders import event, fleet, page, queue, running, seen, snapshot, state, status
from tests.tui.still import make_app, make_session, settled, text_of
from tests.waiting import eventually

SIZES = [(40, 10), (60, 16), (80, 24), (160, 45), (300, 100)]
Compare = Callable[[str, str], None]


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize(("name", "keys"), [("overview", ()), ("workers", ("3",)), ("tasks", ("4",)),
                                            ("retrying", ("4", "l", "l", "l")), ("worker", ("3", "j", "j", "enter")),
                                            ("queues", ("2",)), ("queue", ("2", "enter")), ("events", ("5",)),
                                            ("audit", ("6",)), ("help", ("question_mark",))])  # fmt: skip
async def test_screens_look_as_reviewed(
    name: str, keys: tuple[str, ...], size: tuple[int, int], same_text: Compare
) -> None:
    app = make_app(make_session())
    async with app.run_test(size=size) as pilot:
        await settled(pilot)
        await pilot.press(*keys)
        await settled(pilot)

        same_text(f"{name}-{size[0]}x{size[1]}", text_of(app))


@pytest.mark.parametrize("size", SIZES[1:], ids=lambda size: f"{size[0]}x{size[1]}")
async def test_without_an_answer_the_same_screen_says_so(size: tuple[int, int], same_text: Compare) -> None:
    session = make_session(state())
    link, now_s = session.link, session.clock.monotonic()
    link.phase, link.answered_s, link.answered_ms = "DOWN", None, 0
    link.since_s, link.retry, link.next_s = now_s - 12, 4, now_s + 1.5
    link.error = "redis://10.0.3.7:6379/0: connection refused"
    app = make_app(session)
    async with app.run_test(size=size) as pilot:
        await settled(pilot)

        text = text_of(app)
        assert "✖ DOWN 12s" in text
        assert "No answer from redis://10.0.3.7:6379/0 yet." in text
        assert "connection refused" in text
        same_text(f"down-{size[0]}x{size[1]}", text)


async def test_a_link_that_is_lost_keeps_the_picture_grey_and_its_ages_still() -> None:
    session = make_session()
    app = make_app(session)
    async with app.run_test(size=(100, 30)) as pilot:
        await settled(pilot)
        assert "12,402" in text_of(app)

        session.link.phase, session.link.since_s = "DOWN", session.clock.monotonic()
        session.clock.advance(75)  # type: ignore[attr-defined] # it is the FakeClock of make_session
        await settled(pilot)

        text = text_of(app)
        assert "✖ DOWN 1m15s" in text
        assert "as of" in text
        assert "12,402" in text
        assert "2m04s" in text  # the beat of the lost worker, as it was
        grid = app.screen.query_one("#queues", Grid)
        tones = {segment.style for segment in grid.render_line(2) if segment.text.strip()}
        grey = session.look.style("stale").color
        assert all(style is not None and style.color == grey for style in tones)


async def test_an_empty_fleet_says_what_to_do_next(same_text: Compare) -> None:
    made = state()
    made.apply(snapshot(queues=[], workers=[], history=[]), 1.0)
    app = make_app(make_session(made))
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)

        assert "stemctl worker start" in text_of(app)
        same_text("empty-80x24", text_of(app))


async def test_that_a_busy_worker_tells_a_part_is_said_where_events_are_listed() -> None:
    """And nowhere as a gap: of failures it told all."""
    session = make_session()
    app = make_app(session)
    async with app.run_test(size=(100, 30)) as pilot:
        await pilot.press("5")
        await settled(pilot)
        assert "a part of what goes well" not in text_of(app)

        session.state.apply_events([event("events.sampled", "", detail={"skipped": 9_000, "routine": 9_000})])
        await settled(pilot)
        assert "a part of what goes well" in text_of(app)
        assert "missed" not in text_of(app)
        assert "gap" not in text_of(app)

        session.clock.advance(6)  # type: ignore[attr-defined] # it is the FakeClock of make_session
        session.link.answered_s = session.clock.monotonic()
        await settled(pilot)
        assert "a part of what goes well" not in text_of(app)


async def test_plain_characters_are_plain() -> None:
    app = make_app(make_session(look=Look("mono", ascii=True)))
    async with app.run_test(size=(160, 45)) as pilot:
        await settled(pilot)
        for keys in ((), ("2",), ("3",), ("4",), ("5",), ("question_mark",)):
            await pilot.press(*keys)
            await settled(pilot)

            drawn = "".join(strip.text for strip in app.screen._compositor.render_strips())
            assert drawn.isascii(), [each for each in drawn if not each.isascii()][:5]


async def test_without_colours_there_are_none() -> None:
    app = make_app(make_session(look=Look("mono")))
    async with app.run_test(size=(100, 30)) as pilot:
        await settled(pilot)

        assert app.ansi_color
        styles = [segment.style for strip in app.screen._compositor.render_strips() for segment in strip]
        colours = {style.color.name for style in styles if style is not None and style.color is not None}
        assert colours <= {"default"}


def test_palettes_are_complete() -> None:
    for name, palette in PALETTES.items():
        assert set(palette) == set(TONES), name
        assert all(Look(name).style(tone) is not None for tone in TONES)


async def test_a_terminal_that_is_too_small_says_so_and_q_quits() -> None:
    app = make_app(make_session())
    async with app.run_test(size=(40, 10)) as pilot:
        await settled(pilot)
        assert "terminal too small (40x10" in text_of(app)

        await pilot.resize_terminal(80, 24)
        await settled(pilot)
        assert "QUEUES" in text_of(app)

        await pilot.resize_terminal(59, 24)
        await settled(pilot)
        await pilot.press("q")
    assert app.return_code == 0


async def test_a_panel_that_cannot_be_drawn_harms_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    app = make_app(make_session())
    async with app.run_test(size=(80, 30)) as pilot:
        await settled(pilot)

        def broken(_: object) -> Any:
            raise RuntimeError("a fault")

        monkeypatch.setattr(select, "queue_rows", broken)
        await settled(pilot)

        text = text_of(app)
        assert "This panel cannot be drawn: RuntimeError." in text
        assert "api" in text
        assert app.errors == ["RuntimeError: a fault"]


async def test_what_cannot_be_drawn_outside_of_panels_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    app = make_app(make_session())
    async with app.run_test(size=(100, 30)) as pilot:
        await settled(pilot)

        def broken(*_: object, **__: object) -> Any:
            raise RuntimeError("a fault")

        monkeypatch.setattr(details, "worker_lines", broken)
        await pilot.press("3", "enter")
        await eventually(lambda: isinstance(app.screen, WorkerScreen))
        await settled(pilot)
        await pilot.press("z")
        await settled(pilot)
        app.screen.query_one("#worker-tasks").focus()
        await pilot.press("down")

        assert app.is_running
        assert app.errors == ["RuntimeError: a fault"]
        assert "a fault in the dashboard: RuntimeError: a fault" in text_of(app)


async def test_the_filter_narrows_one_panel_and_escape_clears_it() -> None:
    app = make_app(make_session())
    async with app.run_test(size=(100, 30)) as pilot:
        await settled(pilot)
        await pilot.press("slash", *"etl")
        await settled(pilot)
        grid = app.screen.query_one("#queues", Grid)
        assert [row.name for row in grid.rows] == ["etl"]

        await pilot.press("enter")
        await settled(pilot)
        assert "/etl  1 of 3" in text_of(app)
        assert not app.screen.query_one(FilterInput).has_class("-open")

        await pilot.press("escape")
        await settled(pilot)
        assert len(grid.rows) == 3


async def test_a_bad_filter_is_red_and_the_last_good_one_stays() -> None:
    app = make_app(make_session())
    async with app.run_test(size=(100, 30)) as pilot:
        await settled(pilot)
        await pilot.press("slash", *"etl")
        await settled(pilot)
        app.screen.query_one(FilterInput).value = "etl nosuch:x"
        await settled(pilot)

        assert app.screen.query_one(FilterInput).has_class("-bad")
        assert "no field 'nosuch' here" in text_of(app)
        assert [row.name for row in app.screen.query_one("#queues", Grid).rows] == ["etl"]


async def test_the_cursor_stays_with_its_row_when_rows_move() -> None:
    session = make_session()
    app = make_app(session)
    async with app.run_test(size=(100, 30)) as pilot:
        await settled(pilot)
        await pilot.press("j")
        grid = app.screen.query_one("#queues", Grid)
        assert grid.row is not None
        assert grid.row.name == "reports"

        session.state.queues["etl"].ready = 99_000
        await settled(pilot)

        assert [row.name for row in grid.rows] == ["etl", "default", "reports"]
        assert grid.row.name == "reports"


async def test_a_list_that_nobody_is_in_shows_its_cursor_on_top() -> None:
    session = make_session()
    app = make_app(session)
    async with app.run_test(size=(100, 30)) as pilot:
        await settled(pilot)
        app.screen.query_one("#workers", Grid).focus()
        session.state.queues["etl"].ready = 99_000
        await settled(pilot)

        row = app.screen.query_one("#queues", Grid).row
        assert row is not None
        assert row.name == "etl"


async def test_what_somebody_looks_at_does_not_change_under_his_finger() -> None:
    session = make_session()
    app = make_app(session)
    async with app.run_test(size=(100, 30)) as pilot:
        await settled(pilot)
        grid = app.screen.query_one("#queues", Grid)
        assert grid.row is not None
        seen = grid.row.name
        session.state.queues["etl"].ready = 99_000
        await settled(pilot)

        assert grid.rows[0].name == "etl"
        assert grid.row.name == seen

        await pilot.press("g")
        await settled(pilot)

        assert grid.row.name == "etl"


async def test_an_order_that_is_chosen_shows_its_first_row() -> None:
    session = make_session()
    app = make_app(session)
    async with app.run_test(size=(100, 30)) as pilot:
        await settled(pilot)
        await pilot.press("greater_than_sign", "I")
        await settled(pilot)

        grid = app.screen.query_one("#queues", Grid)
        assert grid.row is grid.rows[0]


async def test_columns_sort_by_key_and_turn_round() -> None:
    app = make_app(make_session())
    async with app.run_test(size=(100, 30)) as pilot:
        await settled(pilot)
        grid = app.screen.query_one("#queues", Grid)
        await pilot.press("greater_than_sign")
        await settled(pilot)
        assert [row.name for row in grid.rows] == ["default", "etl", "reports"]
        assert "NAME▲" in text_of(app)

        await pilot.press("I")
        await settled(pilot)
        assert [row.name for row in grid.rows] == ["reports", "etl", "default"]


async def test_a_frozen_picture_stands_still_and_says_so() -> None:
    session = make_session()
    app = make_app(session)
    async with app.run_test(size=(100, 30)) as pilot:
        await settled(pilot)
        await pilot.press("z")
        session.state.queues["etl"].ready = 99_000
        await settled(pilot)
        assert "FROZEN" in text_of(app)
        assert "99,000" not in text_of(app)

        await pilot.press("z")
        await settled(pilot)
        assert "99,000" in text_of(app)


async def test_a_failure_opens_the_tasks_that_failed_so() -> None:
    app = make_app(make_session())
    async with app.run_test(size=(100, 40)) as pilot:
        await settled(pilot)
        app.screen.query_one("#failures", Grid).focus()
        await pilot.pause()
        await pilot.press("enter")
        await settled(pilot)

        assert app.current_mode == "tasks"
        assert [row.task for row in app.screen.query_one(Grid).rows] == ["mail.send"]


async def test_back_goes_one_step_at_a_time_and_then_quits() -> None:
    app = make_app(make_session())
    async with app.run_test(size=(100, 30)) as pilot:
        await settled(pilot)
        await pilot.press("3", "enter")
        await settled(pilot)
        assert len(app.screen_stack) == 2

        await pilot.press("q")
        await settled(pilot)
        assert (app.current_mode, len(app.screen_stack)) == ("workers", 1)
        await pilot.press("escape")
        await settled(pilot)
        assert app.current_mode == "overview"
        await pilot.press("escape")
        assert app.is_running
        await pilot.press("q")
    assert app.return_code == 0


async def test_every_colour_scheme_can_be_had_by_key() -> None:
    app = make_app(make_session())
    async with app.run_test(size=(100, 30)) as pilot:
        await settled(pilot)
        names = set()
        for _ in range(4):
            await pilot.press("T")
            await settled(pilot)
            names.add(app.session.look.palette)

        assert names == {"stem-dark", "stem-light", "stem-deut", "stem-contrast"}
        assert all(grid.look.palette == "stem-dark" for grid in app.screen.query(Grid))


async def test_ten_thousand_rows_are_shown_at_once() -> None:
    made = fleet()
    rows = [running(f"id-{number}", started_ago_ms=number) for number in range(10_000)]
    made.apply(snapshot(workers=[seen("big-1-aa", in_flight=10_000, running=tuple(rows))]), 2_000.0)
    app = make_app(make_session(made))
    async with app.run_test(size=(160, 45)) as pilot:
        await settled(pilot)
        await pilot.press("4", "G")
        await settled(pilot)
        grid = app.screen.query_one(Grid)

        assert len(grid.rows) == 10_000
        assert grid.row is not None
        assert grid.row.id == "id-0"


async def test_only_lines_that_changed_are_painted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """One changed row must not repaint the viewport: that is what the grid is for."""
    session = make_session()
    app = make_app(session)
    async with app.run_test(size=(100, 30)) as pilot:
        await settled(pilot)
        grid = app.screen.query_one("#queues", Grid)
        painted: list[Any] = []
        refresh = grid.refresh

        def note(*regions: Any, **more: Any) -> Any:
            painted.append(regions)
            return refresh(*regions, **more)

        monkeypatch.setattr(grid, "refresh", note)

        app.draw_now()
        assert painted == []

        session.state.queues["etl"].dead = 7
        app.draw_now()

        lines = [region.y for regions in painted for region in regions]
        assert lines == [0, 4]  # the rule with the totals, and the row


async def test_the_task_screen_shows_what_the_broker_says() -> None:
    from stem.contracts import NewTask
    from stem.messages.envelope import Envelope

    broker = InMemoryBroker()
    body = Envelope(id="t-1", task="mail.send", args={"to": "a@b.c\x1b[2J"}).encode()
    await broker.enqueue([NewTask(id="t-1", task="mail.send", queue="default", body=body)])
    made = state()
    waiting = status("t-1", TaskState.QUEUED)
    made.apply(snapshot(queues=[queue(ready=1)], workers=[], pages={"queued": page(waiting)}), 1.0)
    app = make_app(make_session(made, broker), broker)
    async with app.run_test(size=(100, 40)) as pilot:
        await settled(pilot)
        await pilot.press("4", "l", "enter")

        async def told() -> bool:
            await settled(pilot)
            return "ARGUMENTS" in text_of(app)

        await eventually(told)
        text = text_of(app)
        assert "a@b.c\\u001b[2J" in text
        assert "· queued" in text
        assert "WHY" in text
        assert "TIMELINE" in text


async def test_a_task_that_is_gone_says_so() -> None:
    made = state()
    made.apply(snapshot(queues=[queue(ready=1)], pages={"queued": page(status("gone", TaskState.QUEUED))}), 1.0)
    app = make_app(make_session(made))
    async with app.run_test(size=(100, 40)) as pilot:
        await settled(pilot)
        await pilot.press("4", "l", "enter")

        async def told() -> bool:
            await settled(pilot)
            return "no record of it" in text_of(app)

        await eventually(told)


async def test_the_notice_tells_of_a_server_that_may_lose_tasks() -> None:
    session = make_session()
    assert session.state.info is not None
    session.state.info = dataclasses.replace(session.state.info, policy="allkeys-lru")
    app = make_app(session)
    async with app.run_test(size=(100, 30)) as pilot:
        await settled(pilot)

        assert "maxmemory-policy is allkeys-lru" in text_of(app)


async def test_screens_are_live_screens() -> None:
    app = make_app(make_session())
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        for key in ("1", "2", "3", "4", "5", "6"):
            await pilot.press(key)
            assert isinstance(app.screen, LiveScreen)


async def test_escape_in_the_filter_line_clears_and_leaves_it() -> None:
    app = make_app(make_session())
    async with app.run_test(size=(100, 30)) as pilot:
        await settled(pilot)
        await pilot.press("slash", *"etl", "escape")
        await settled(pilot)

        assert len(app.screen.query_one("#queues", Grid).rows) == 3
        assert isinstance(app.screen.focused, Grid)


def test_no_widget_that_reads_markup_is_given_text() -> None:
    """Static, Label and notify() read markup; here everything is drawn as segments."""
    folder = Path(stem_tui.__file__).parent
    for path in folder.rglob("*.py"):
        code = path.read_text(encoding="utf-8")
        assert not re.search(r"\b(Static|Label|RichLog|Markdown|OptionList)\(|\.notify\(|from_markup", code), path
