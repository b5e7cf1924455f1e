"""`%` means all that passes the filter, for every key that can follow it."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from stem.adapters.memory import InMemoryBroker
from stem.clock import SystemClock
from stem.contracts import NewTask
from stem.control.controller import Controller
from stem.messages.envelope import Envelope
from stem.observe.feed import take
from stem.observe.state import ClusterState
from stem_tui.app import StemTUI
from stem_tui.screens.queues import QueueScreen
from stem_tui.widgets.dialogs import Menu, Prompt
from tests.observe.builders import state
from tests.tui.still import text_of
from tests.tui.test_deeds import answered, app_over, asked, state_of, stocked
from tests.waiting import eventually

MARKED = "● everything marked"


async def of_many_names(count: int = 300) -> tuple[InMemoryBroker, ClusterState]:
    """Return a broker with as many tasks of one name as a list has room for, and the others behind them."""
    broker = InMemoryBroker()
    names = ["mail.send"] * count + ["etl.load", "etl.clean", "report.make"]
    await broker.enqueue(
        [
            NewTask(id=f"t-{number:04}", task=name, queue="mail", delay_ms=3_600_000 + number,
                    body=Envelope(id=f"t-{number:04}", task=name).encode())
            for number, name in enumerate(names)
        ]
    )  # fmt: skip
    made = state()
    made.apply(await take(broker, clock=SystemClock(), pages=["scheduled"]), 1.0)
    assert {row.task for row in made.open.values()} == {"mail.send"}, "the list holds the first page"
    return broker, made


async def everything(app: StemTUI, pilot: Any, text: str = "") -> None:
    await app.show_tasks("scheduled", text)
    await pilot.pause()
    await pilot.press("percent_sign")
    await eventually(lambda: MARKED in text_of(app))


async def paused(broker: InMemoryBroker) -> list[str]:
    return sorted(pause.target for pause in await broker.census.pauses())


async def test_a_pause_is_of_all_names_that_pass_the_filter() -> None:
    broker, made = await of_many_names()
    app = app_over(broker, made)
    async with app.run_test(size=(100, 30)) as pilot:
        await everything(app, pilot, "!name:report")
        await pilot.press("P")
        dialog = await asked(app, pilot)

        assert "Pause 3 task names?" in text_of(app)
        await pilot.press("ctrl+y")
        await eventually(lambda: "copied" in text_of(app))
        names = shlex.split(app.clipboard)[5:]
        assert names == ["pause", "--task", "etl.clean", "--task", "etl.load", "--task", "mail.send"]
        await pilot.press(*dialog.question.word, "enter")
        await answered(app)
    assert await paused(broker) == ["etl.clean", "etl.load", "mail.send"]


async def test_a_pause_for_a_time_is_too() -> None:
    broker, made = await of_many_names()
    app = app_over(broker, made)
    async with app.run_test(size=(100, 30)) as pilot:
        await everything(app, pilot)
        await pilot.press("H")
        await eventually(lambda: isinstance(app.screen, Prompt))
        await pilot.press(*"10m", "enter")
        dialog = await asked(app, pilot)
        await pilot.press(*dialog.question.word, "enter")
        await answered(app)
        pauses = await broker.census.pauses()
    assert len(pauses) == 4
    assert all(pause.until_ms == pause.at_ms + 600_000 for pause in pauses)


async def test_which_way_a_pause_goes_is_said_by_all_of_them() -> None:
    broker, made = await of_many_names()
    app = app_over(broker, made)
    async with app.run_test(size=(100, 30)) as pilot:
        await app.show_tasks("scheduled", "")
        await pilot.press("P")
        await eventually(lambda: "paused" in text_of(app))
        made.apply(await take(broker, clock=SystemClock(), pages=["scheduled"]), 2.0)
        await everything(app, pilot)
        await pilot.press("P")
        await asked(app, pilot)

        assert "Pause 4 task names?" in text_of(app), "not all are paused: only those in the list"


async def test_the_menu_copies_no_command_that_means_less() -> None:
    broker, made = await of_many_names()
    app = app_over(broker, made)
    async with app.run_test(size=(100, 30)) as pilot:
        await everything(app, pilot)
        await pilot.press("x")
        await eventually(lambda: isinstance(app.screen, Menu) and "Revoke" in text_of(app))
        await pilot.press("Y")
        await eventually(lambda: "the question has the command" in text_of(app))

        assert app.clipboard == ""
        await pilot.press("K")
        await asked(app, pilot)
        assert "Revoke 303 tasks?" in text_of(app)
        await pilot.press("ctrl+y")
        await eventually(lambda: "copied" in text_of(app))
        assert len(shlex.split(app.clipboard)[6:]) == 303


async def in_queue(app: StemTUI, pilot: Any, tasks: str) -> None:
    """Open the queue and mark everything of it."""
    await pilot.press("2", "enter")
    await eventually(lambda: isinstance(app.screen, QueueScreen) and tasks in text_of(app))
    await pilot.press("percent_sign")
    await eventually(lambda: MARKED in text_of(app))


async def test_in_a_queue_it_is_all_of_its_tasks_in_the_state_shown() -> None:
    ids = [f"t-{number:04}" for number in range(250)]
    broker, made = await stocked(*ids, delay_ms=3_600_000)
    await broker.enqueue(
        [
            NewTask(id="other", task="mail.send", queue="etl", body=Envelope(id="other", task="mail.send").encode(),
                    delay_ms=3_600_000),
            NewTask(id="ready", task="mail.send", queue="mail", body=Envelope(id="ready", task="mail.send").encode()),
        ]
    )  # fmt: skip
    app = app_over(broker, made)
    async with app.run_test(size=(100, 30)) as pilot:
        await in_queue(app, pilot, "t-0000")
        await pilot.press("K")
        dialog = await asked(app, pilot)

        assert "Revoke 250 tasks?" in text_of(app)
        await pilot.press(*dialog.question.word, "enter")
        await answered(app)
    rows = {row.name: row for row in await broker.census.queues(["mail", "etl"])}
    assert (rows["mail"].delayed, rows["mail"].ready, rows["etl"].delayed) == (0, 1, 1)


async def test_an_export_of_a_queue_has_all_of_it(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    broker, made = await stocked(*(f"t-{number:04}" for number in range(250)), delay_ms=3_600_000)
    app = app_over(broker, made)
    async with app.run_test(size=(100, 30)) as pilot:
        await in_queue(app, pilot, "t-0000")
        await pilot.press("e")
        await eventually(lambda: "Export everything that passes the filter to" in text_of(app))
        await pilot.press("enter")
        await eventually(lambda: "✓ 250 rows written" in text_of(app))
    (path,) = tmp_path.iterdir()
    assert len(path.read_text().splitlines()) == 251


async def test_an_export_says_everything_only_where_it_is() -> None:
    broker, made = await stocked("t-1", "t-2")
    app = app_over(broker, made)
    async with app.run_test(size=(100, 30)) as pilot:
        await app.show_tasks("succeeded", "")
        for task_id in ("t-1", "t-2"):
            made.tasks[task_id].state = "succeeded"
            made._index(made.tasks[task_id])
        made.version += 1
        await eventually(lambda: "t-2" in text_of(app))
        await pilot.press("percent_sign", "e")
        await eventually(lambda: "Export 2 rows to" in text_of(app))


async def swap(broker: InMemoryBroker, gone: str, come: str, *, task: str = "mail.send") -> None:
    """End one task and enqueue another in its place: as many as before, and not the same ones."""
    await Controller(broker, actor="other").revoke([gone])
    body = Envelope(id=come, task=task).encode()
    await broker.enqueue([NewTask(id=come, task=task, queue="mail", body=body, delay_ms=3_600_000)])


async def test_a_yes_to_as_many_is_none_to_others() -> None:
    broker, made = await stocked("t-1", "t-2", "t-3", delay_ms=3_600_000)
    app = app_over(broker, made)
    async with app.run_test(size=(100, 30)) as pilot:
        await everything(app, pilot)
        await pilot.press("K")
        first = await asked(app, pilot)
        await swap(broker, "t-1", "n-1")
        await pilot.press(*first.question.word, "enter")
        await eventually(lambda: app.screen is not first and "3 → 3 since you were asked" in text_of(app))

        second = await asked(app, pilot)
        assert "n-1" in text_of(app)
        await swap(broker, "t-2", "n-2")
        await pilot.press(*second.question.word, "enter")
        assert "2 tasks revoked" in await answered(app)
    states = [await state_of(broker, each) for each in ("t-3", "n-1", "n-2")]
    assert states == ["revoked", "revoked", "scheduled"], "what came after the last question was not agreed to"


async def test_a_yes_to_as_many_names_is_none_to_others() -> None:
    broker, made = await stocked("t-1", delay_ms=3_600_000)
    await swap(broker, "t-0", "e-1", task="etl.load")
    app = app_over(broker, made)
    async with app.run_test(size=(100, 30)) as pilot:
        await everything(app, pilot)
        await pilot.press("P")
        first = await asked(app, pilot)
        await swap(broker, "e-1", "r-1", task="report.make")
        await pilot.press(*first.question.word, "enter")
        await eventually(lambda: app.screen is not first and "2 → 2 since you were asked" in text_of(app))

        second = await asked(app, pilot)
        assert "report.make" in text_of(app)
        assert "etl.load" not in text_of(app)
        await pilot.press(*second.question.word, "enter")
        await answered(app)
    assert await paused(broker) == ["mail.send", "report.make"]
