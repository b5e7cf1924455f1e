"""From a key to what it changes: counted, asked, counted again, bounded, taken back; nothing where one only looks."""

from __future__ import annotations

import asyncio
import shlex
from typing import Any

import pytest
from textual.events import AppBlur, AppFocus, Key, MouseScrollUp
from textual.screen import ModalScreen
from textual.widgets import Button, Input

from stem.adapters.memory import InMemoryBroker
from stem.clock import SystemClock
from stem.contracts import FetchRequest, NewTask, Outcome, Settlement
from stem.messages.envelope import Envelope
from stem.observe.feed import take
from stem.observe.rows import QueueLine
from stem.observe.state import ClusterState
from stem_tui.actions import ACTIONS, Action
from stem_tui.app import StemTUI
from stem_tui.widgets.command import CommandLine
from stem_tui.widgets.dialogs import Confirm
from stem_tui.widgets.grid import Grid
from tests.observe.builders import state
from tests.tui.still import make_app, make_session, settled, text_of
from tests.tui.test_deeds import answered, app_over, asked, state_of, stocked
from tests.waiting import eventually

HOSTILE = "\x1b]0;owned\x07[/red][@click=app.quit]x\u202e"
ASKING = [action for action in ACTIONS if action.tier]


async def look_again(broker: InMemoryBroker, made: ClusterState) -> None:
    pages: Any = ["queued", "scheduled", "dead"]
    made.apply(await take(broker, clock=SystemClock(), pages=pages), 2.0)


async def enqueue(broker: InMemoryBroker, *ids: str, delay_ms: int | None = None) -> None:
    await broker.enqueue(
        [
            NewTask(id=each, task="mail.send", queue="mail", body=Envelope(id=each, task="mail.send").encode(),
                    delay_ms=delay_ms)
            for each in ids
        ]
    )  # fmt: skip


async def bury(broker: InMemoryBroker, count: int) -> None:
    """Let so many tasks of queue `mail` die."""
    found = await broker.exchange("w", [], FetchRequest(queues=["mail"], count=count))
    ends = [Settlement(id=each.id, token=each.token, outcome=Outcome.DEAD) for each in found.deliveries]
    await broker.exchange("w", ends, None)


async def typed(pilot: Any, dialog: Confirm, word: str | None = None) -> None:
    """Say yes, by the word that is asked for."""
    await pilot.press(*(word or dialog.question.word), "enter")


def at_hand(dialog: Confirm) -> Button | None:
    """Return what a key goes to first: Cancel, or the word that is asked for, whose ⏎ means no until it is typed."""
    return None if dialog.question.word else dialog.query_one("#cancel", Button)


async def test_every_question_has_cancel_at_hand_and_enter_sends_nothing() -> None:
    broker, made = await stocked("t-1", "t-2", "t-3", worker=True)
    await bury(broker, 2)
    await look_again(broker, made)
    app = app_over(broker, made)
    rows: dict[str, list[Any]] = {
        "queue": list(made.queues.values()),
        "worker": list(made.workers.values()),
        "task": [row for row in made.open.values() if row.state in ("queued", "dead")],
    }
    before = [(row.ready, row.dead, row.pause) for row in await broker.census.queues()]
    async with app.run_test(size=(90, 26)) as pilot:
        for action in ASKING:
            some = [row for row in rows[action.scope] if action.scope != "task" or _fits(action, row)]
            app.acting.start(action, some[:1])
            dialog = await asked(app, pilot)

            assert dialog.focused is at_hand(dialog), action.id
            assert dialog.question.command.startswith("stemctl --url"), action.id
            assert bool(dialog.question.word) == (action.tier == 2), action.id
            await pilot.press("enter")
            await eventually(lambda: not isinstance(app.screen, ModalScreen))

        assert app.errors == []
    assert [(row.ready, row.dead, row.pause) for row in await broker.census.queues()] == before
    assert not (await broker.census.audit()).items


async def test_what_is_typed_at_once_arrives_in_order_and_can_be_mended() -> None:
    broker, made = await stocked("t-1", "t-2")
    app = app_over(broker, made)
    async with app.run_test(size=(90, 26)) as pilot:
        await pilot.press("2", "ctrl+d")
        dialog = await asked(app, pilot)
        for key in (*dialog.question.word, "x", "enter"):
            app.post_message(Key(key, key if len(key) == 1 else None))
        await pilot.pause()
        assert isinstance(app.screen, Confirm), "a wrong word says neither yes nor no"

        for key in ("backspace", "enter"):
            app.post_message(Key(key, None))
        await eventually(lambda: not isinstance(app.screen, Confirm))
        assert "purged" in await answered(app)
    assert (await broker.census.queues(["mail"]))[0].ready == 0


def _fits(action: Action, row: Any) -> bool:
    dead: bool = row.state == "dead"
    return dead == (action.id in ("task.retry", "task.discard"))


async def test_a_yes_to_another_number_is_asked_again_and_no_more_goes_than_was_agreed() -> None:
    broker, made = await stocked("t-1", "t-2")
    app = app_over(broker, made)
    async with app.run_test(size=(90, 26)) as pilot:
        await pilot.press("2", "ctrl+d")
        first = await asked(app, pilot)
        assert "Purge 2 waiting tasks of queue mail?" in text_of(app)
        await enqueue(broker, *(f"n-{number}" for number in range(20)))
        await typed(pilot, first)

        await eventually(lambda: app.screen is not first and "2 → 22 since you were asked" in text_of(app))
        second = await asked(app, pilot)
        assert second.focused is at_hand(second)
        await enqueue(broker, "late")
        await typed(pilot, second)

        assert "22 waiting tasks of queue mail purged" in await answered(app)
    (row,) = await broker.census.queues(["mail"])
    assert row.ready == 1, "one came after the last count: it is not what was agreed to"


async def test_what_ended_meanwhile_is_not_sent_to() -> None:
    broker, made = await stocked("t-1")
    app = app_over(broker, made)
    async with app.run_test(size=(90, 26)) as pilot:
        await pilot.press("4", "l", "K")
        await asked(app, pilot)
        await bury(broker, 1)
        await pilot.press("y")

        await eventually(lambda: "there is nothing (any more) that it could be done to" in text_of(app))
    assert await state_of(broker, "t-1") == "failed"


async def test_everything_means_also_what_no_list_holds() -> None:
    ids = [f"t-{number:04}" for number in range(700)]
    broker, made = await stocked(*ids, delay_ms=3_600_000)
    app = app_over(broker, made)
    assert len(made.open) == 200, "the list holds the first page"
    async with app.run_test(size=(90, 26)) as pilot:
        await app.show_tasks("scheduled", "id:t-0 !id:t-00")
        await pilot.press("percent_sign")
        await eventually(lambda: "● everything marked" in text_of(app))
        await pilot.press("K")
        dialog = await asked(app, pilot)

        assert "Revoke 600 tasks?" in text_of(app)
        assert dialog.question.word == "600"
        await typed(pilot, dialog)
        assert "600 tasks revoked" in await answered(app)
    (row,) = await broker.census.queues(["mail"])
    assert row.delayed == 100


async def test_dead_letters_are_replayed_and_discarded() -> None:
    broker, made = await stocked("t-1", "t-2", "t-3", "t-4")
    await bury(broker, 4)
    await look_again(broker, made)
    app = app_over(broker, made)
    async with app.run_test(size=(90, 26)) as pilot:
        await app.show_tasks("dead", "id:t-1")
        await pilot.press("D")
        await typed(pilot, await asked(app, pilot))
        assert "task t-1 discarded" in await answered(app)
        await pilot.press("escape", "2", "M")
        await typed(pilot, await asked(app, pilot))
        assert "3 dead letters of queue mail queued again" in await answered(app)
        (row,) = await broker.census.queues(["mail"])
        assert (row.dead, row.ready) == (0, 3)

        await bury(broker, 2)
        await pilot.press("escape", "D")
        await typed(pilot, await asked(app, pilot))
        assert "2 dead letters of queue mail discarded" in await answered(app)
    (row,) = await broker.census.queues(["mail"])
    assert (row.dead, row.ready) == (0, 1)


async def test_a_pause_for_a_time_is_taken_back_and_set_again() -> None:
    broker, made = await stocked("t-1")
    app = app_over(broker, made)
    async with app.run_test(size=(90, 26)) as pilot:
        await pilot.press("2", "H", "enter")
        await pilot.press(*"soon", "enter")
        await eventually(lambda: "soon is no length of time" in text_of(app))
        assert await broker.census.pauses() == []
        await pilot.press(*["backspace"] * 4, *"10m", "enter")

        await eventually(lambda: "queue mail paused" in text_of(app))
        (pause,) = await broker.census.pauses()
        assert pause.until_ms is not None
        assert pause.until_ms - pause.at_ms == 600_000
        await pilot.press("u")
        await eventually(lambda: "queue mail resumed" in text_of(app))
        assert await broker.census.pauses() == []
        await pilot.press("u")
        await eventually(lambda: "queue mail paused" in text_of(app))
        assert len(await broker.census.pauses()) == 1


async def test_production_asks_one_step_more() -> None:
    broker, made = await stocked("t-1")
    app = app_over(broker, made, production=True)
    async with app.run_test(size=(90, 26)) as pilot:
        await pilot.press("2", "P")
        dialog = await asked(app, pilot)
        assert dialog.question.word == ""
        assert "PRODUCTION" in text_of(app)
        await pilot.press("n", "4", "l", "K")
        dialog = await asked(app, pilot)
        assert dialog.question.word == "t-1"
        await pilot.press("escape", "2", "ctrl+d")
        dialog = await asked(app, pilot)
        assert dialog.question.word == "prod mail"
        await typed(pilot, dialog)
        assert "purged" in await answered(app)


async def test_read_only_has_nothing_to_send_with() -> None:
    broker, made = await stocked("t-1", worker=True)
    app = app_over(broker, made, read_only=True, production=True)
    held = [vars(each) for each in (app, app.acting, app.typed)]
    assert "Controller" not in {type(value).__name__ for each in held for value in each.values()}
    async with app.run_test(size=(90, 26)) as pilot:
        for action in ACTIONS:
            if action.changes:
                app.acting.start(action, list(made.queues.values()))
                await pilot.pause()
                assert "start with --write, nothing was sent" in text_of(app)
    assert await broker.census.pauses() == []


async def test_the_command_line_goes_filters_and_acts() -> None:
    broker, made = await stocked("t-1", "t-2")
    app = app_over(broker, made)
    async with app.run_test(size=(90, 26)) as pilot:

        async def say(line: str) -> None:
            await pilot.press("colon")
            await eventually(lambda: isinstance(app.screen, CommandLine) and app.screen.query_one(Input).has_focus)
            app.screen.query_one(Input).value = line
            await pilot.press("enter")

        await say("tasks state:queued id:t-2")
        await eventually(lambda: app.current_mode == "tasks" and "/state:queued id:t-2  1 of 2" in text_of(app))
        await say("revoke")
        await asked(app, pilot)
        assert "Revoke task t-2?" in text_of(app)
        await pilot.press("n")
        await say("queues")
        await eventually(lambda: app.current_mode == "queues")
        await say("pause 10m")
        await eventually(lambda: "queue mail paused" in text_of(app))
        await say("nonsense")
        await eventually(lambda: "there is no command nonsense" in text_of(app))
        await pilot.press("escape", "colon", "up", "up")
        await eventually(lambda: app.screen.query_one(Input).value == "queues")
        await pilot.press("escape")
        await say("theme deut")
        assert app.theme == "stem-deut"
        await say("q")
        await eventually(lambda: app.return_code == 0)


async def test_an_export_is_what_the_filter_lets_through(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    broker, made = await stocked("t-1", "t-2")
    app = app_over(broker, made)
    async with app.run_test(size=(90, 26)) as pilot:
        await app.show_tasks("queued", "id:t-2")
        await pilot.press("e")
        await eventually(lambda: "Export 1 row to" in text_of(app))
        await pilot.press("enter")
        await eventually(lambda: "✓ 1 row written" in text_of(app))
    (path,) = tmp_path.iterdir()
    assert path.name.startswith("stem-prod-queued-")
    assert "t-2" in path.read_text()
    assert "t-1" not in path.read_text()


async def test_nothing_hostile_gets_out_of_a_dialog() -> None:
    made = state()
    made.queues[HOSTILE] = QueueLine(HOSTILE, "")
    made.queues[HOSTILE].name = "\\x1b]0;owned\\x07[/red][@click=app.quit]x\\u202e"
    app = make_app(make_session(made, InMemoryBroker()))
    async with app.run_test(size=(90, 26)) as pilot:
        for keys in (("2", "x"), ("2", "H"), ("2", "colon", *"queue ")):
            await pilot.press(*keys)
            await eventually(lambda: isinstance(app.screen, ModalScreen))
            await pilot.pause()
            text = text_of(app)

            assert all(line.isprintable() for line in text.split("\n"))
            assert "[/red]" in text, "shown as it is, never read as markup"
            await pilot.press("escape")
        await pilot.press("P")
        await eventually(lambda: "✖ pause queue " in text_of(app))
        assert app.is_running
        assert text_of(app).replace("\n", "").isprintable()


async def test_a_copied_command_is_one_that_a_shell_reads_as_it_was_meant() -> None:
    broker, made = await stocked("t-1", "t-2")
    app = app_over(broker, made)
    async with app.run_test(size=(90, 26)) as pilot:
        await pilot.press("4", "l", "asterisk", "ctrl+k")
        await asked(app, pilot)
        await pilot.press("ctrl+y")
        await eventually(lambda: "copied" in text_of(app))

        assert shlex.split(app.clipboard)[5:] == ["revoke", "--terminate", "t-1", "t-2"]
        await pilot.press("escape", "Y")
        await eventually(lambda: app.clipboard.endswith("tasks show t-1"))
        await pilot.press("x", "j", "j", "Y")
        await eventually(lambda: "retry" in app.clipboard)


async def test_a_click_selects_a_header_sorts_and_the_wheel_scrolls() -> None:
    broker, made = await stocked("t-1", "t-2", "t-3")
    app: StemTUI = app_over(broker, made)
    async with app.run_test(size=(90, 26)) as pilot:
        await app.show_tasks("queued", "")
        await pilot.pause()
        grid: Any = app.screen.query_one("#tasks")
        await pilot.click("#tasks", offset=(10, 3))
        assert grid.row.id == "t-2"
        head = grid.render_line(1).text.index(" ID")
        await pilot.click("#tasks", offset=(head + 1, 1))
        assert grid.sorting.column == "id"
        await pilot.click("#tasks", offset=(head + 1, 1))
        assert grid.sorting.down
        await pilot._post_mouse_events([MouseScrollUp], "#tasks", offset=(10, 3), button=0)
        await eventually(lambda: grid.row.id == "t-3")


@pytest.mark.parametrize("key", ["enter", "R", "K", "x"])
async def test_a_key_for_a_row_that_has_just_gone_says_so(key: str) -> None:
    app = app_over(InMemoryBroker(), state())
    async with app.run_test(size=(100, 30)) as pilot:
        await app.show_tasks("all", "")

        await pilot.press(key)

        await eventually(lambda: "nothing (any more) in this list" in text_of(app))


@pytest.mark.parametrize("key", ["S", "M", "b"])
async def test_a_key_that_means_nothing_for_such_rows_says_nothing_of_them(key: str) -> None:
    app = app_over(InMemoryBroker(), state())
    async with app.run_test(size=(100, 30)) as pilot:
        await app.show_tasks("all", "")

        await pilot.press(key, "z")

        await eventually(lambda: app.session.frozen_ms is not None)
        assert app.session.notice is None


def slow(broker: InMemoryBroker, monkeypatch: pytest.MonkeyPatch) -> tuple[asyncio.Event, asyncio.Event]:
    """Let the broker say how tasks are once the second event is set; the first one says that it was asked."""
    asks, answers, statuses = asyncio.Event(), asyncio.Event(), broker.statuses

    async def later(*arguments: Any, **given: Any) -> Any:
        asks.set()
        await answers.wait()
        return await statuses(*arguments, **given)

    monkeypatch.setattr(broker, "statuses", later)
    return asks, answers


def notice_of(app: StemTUI) -> str:
    notice = app.session.notice
    return "" if notice is None else "".join(cell.text for cell in notice.cells)


@pytest.mark.parametrize("keys", [("slash",), ("slash", "a"), ("colon",), ("2",), ("enter",)], ids="-".join)
async def test_a_question_that_comes_late_takes_no_key_that_was_meant_for_something_else(
    keys: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    broker, made = await stocked("t-1", "t-2")
    app = app_over(broker, made)
    asks, answers = slow(broker, monkeypatch)
    async with app.run_test(size=(100, 30)) as pilot:
        await app.show_tasks("queued", "")
        await settled(pilot)
        await pilot.press("K")
        await asyncio.wait_for(asks.wait(), 10)
        await pilot.press(*keys)
        answers.set()
        await eventually(lambda: "too late" in notice_of(app))
        assert notice_of(app) == "! revoke task t-1: the question comes too late, nothing was sent: press again"
        await pilot.press("y")
        await settled(pilot)

        assert not isinstance(app.screen, Confirm)
        assert [await state_of(broker, each) for each in ("t-1", "t-2")] == ["queued", "queued"]


async def test_a_question_that_comes_late_comes_where_somebody_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    broker, made = await stocked("t-1", "t-2")
    app = app_over(broker, made)
    asks, answers = slow(broker, monkeypatch)
    async with app.run_test(size=(100, 30)) as pilot:
        await app.show_tasks("queued", "")
        await settled(pilot)
        await pilot.press("K")
        await asyncio.wait_for(asks.wait(), 10)
        await pilot.press("j")
        app.app_focus = False  # somebody looks at another window meanwhile
        answers.set()
        await asked(app, pilot)

        assert "Revoke task t-1?" in text_of(app)


async def test_a_question_that_opens_while_the_terminal_is_out_of_focus_keeps_the_panel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broker, made = await stocked("t-1", worker=True)
    app = app_over(broker, made)
    asks, answers, reckon = asyncio.Event(), asyncio.Event(), app.acting._reckon

    async def later(*arguments: Any) -> Any:
        asks.set()
        await answers.wait()
        return await reckon(*arguments)

    monkeypatch.setattr(app.acting, "_reckon", later)
    async with app.run_test(size=(100, 40)) as pilot:
        await settled(pilot)
        workers = app.screen.query_one("#workers", Grid)
        workers.focus()
        await pilot.press("S")
        await asyncio.wait_for(asks.wait(), 10)
        app.post_message(AppBlur())
        await settled(pilot)
        answers.set()
        await asked(app, pilot)
        app.post_message(AppFocus())
        await pilot.press("n")
        await settled(pilot)

        assert app.screen.focused is workers
