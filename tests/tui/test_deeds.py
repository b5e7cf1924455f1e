"""What changes something asks as it should, is sent once, and says who answered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from textual.widgets import Button, Input

from stem.adapters.memory import InMemoryBroker
from stem.clock import SystemClock
from stem.contracts import Beat, Broker, NewTask, Pause
from stem.control.answer import CommandItem, CommandResult, Confirmation
from stem.control.controller import Controller
from stem.errors import BrokerUnreachableError
from stem.messages.envelope import Envelope
from stem.observe.feed import take
from stem.observe.rows import TaskLine
from stem.observe.state import ClusterState
from stem.testing import FakeClock
from stem_tui import deeds, figures, plans
from stem_tui.actions import BY_ID
from stem_tui.app import StemTUI
from stem_tui.widgets.dialogs import Answered, Confirm
from stem_tui.widgets.grid import Grid
from tests.observe.builders import NOW, beat, fleet, snapshot, state
from tests.tui.still import make_app, make_session, settled, text_of
from tests.waiting import eventually


async def stocked(*ids: str, delay_ms: int | None = None, worker: bool = False) -> tuple[InMemoryBroker, ClusterState]:
    """Return a broker with these tasks on queue `mail`, and the picture of it."""
    broker = InMemoryBroker()
    if worker:
        await broker.presence.beat(Beat(heartbeat=beat("deaf-1-aa", queues=("mail",))))
    await broker.enqueue(
        [
            NewTask(id=each, task="mail.send", queue="mail", body=Envelope(id=each, task="mail.send").encode(),
                    delay_ms=delay_ms)
            for each in ids
        ]
    )  # fmt: skip
    made = state()
    made.apply(await take(broker, clock=SystemClock(), pages=["queued", "scheduled"]), 1.0)
    return broker, made


def app_over(broker: Broker, made: ClusterState, **fields: Any) -> StemTUI:
    return make_app(make_session(made, broker, **fields), broker)


async def state_of(broker: Broker, task_id: str) -> str:
    (status,) = await broker.statuses([task_id])
    return "gone" if status is None else status.state.value


async def asked(app: StemTUI, pilot: Any) -> Confirm:
    await eventually(lambda: isinstance(app.screen, Confirm))
    await pilot.pause()
    assert isinstance(app.screen, Confirm)
    return app.screen


async def answered(app: StemTUI) -> str:
    await eventually(lambda: isinstance(app.screen, Answered))
    await eventually(lambda: "esc close" in text_of(app))
    return text_of(app)


async def test_a_revoke_asks_with_no_at_hand_and_enter_sends_nothing() -> None:
    broker, made = await stocked("t-1")
    app = app_over(broker, made)
    async with app.run_test(size=(100, 30)) as pilot:
        await pilot.press("4", "l")
        await pilot.pause()
        await pilot.press("K")
        dialog = await asked(app, pilot)

        assert dialog.focused is dialog.query_one("#cancel", Button)
        assert "Revoke task t-1?" in text_of(app)
        assert "mail.send  t-1  queue mail" in text_of(app)
        await pilot.press("enter")
        await eventually(lambda: "not sent" in text_of(app))

        assert await state_of(broker, "t-1") == "queued"


@pytest.mark.parametrize("key", ["n", "escape"])
async def test_no_is_no(key: str) -> None:
    broker, made = await stocked("t-1")
    app = app_over(broker, made)
    async with app.run_test(size=(100, 30)) as pilot:
        await pilot.press("4", "l", "K")
        await asked(app, pilot)
        await pilot.press(key)
        await eventually(lambda: not isinstance(app.screen, Confirm))

        assert await state_of(broker, "t-1") == "queued"


async def test_yes_revokes_and_the_answer_is_shown() -> None:
    broker, made = await stocked("t-1")
    app = app_over(broker, made)
    async with app.run_test(size=(100, 30)) as pilot:
        await pilot.press("4", "l", "K")
        await asked(app, pilot)
        await pilot.press("y")

        text = await answered(app)
        assert "task t-1 revoked" in text
        assert "✓ t-1" in text
        assert await state_of(broker, "t-1") == "revoked"


async def test_a_scheduled_task_can_be_made_due_now() -> None:
    broker, made = await stocked("t-1", delay_ms=3_600_000)
    app = app_over(broker, made)
    async with app.run_test(size=(100, 30)) as pilot:
        await pilot.press("4", "l", "l")
        await pilot.pause()
        await pilot.press("R")
        await asked(app, pilot)
        await pilot.press("y")

        assert "is queued now" in await answered(app)
        assert await state_of(broker, "t-1") == "queued"


@pytest.mark.parametrize(
    ("ids", "verdict", "headline"),
    [
        (("gone", "lost"), "failed", "nothing was done: retry 2 "),
        (("t-1", "gone", "lost"), "part", "1 of 3: see the answers"),
        (("t-1",), "ok", "queued again"),
    ],
)
async def test_the_headline_tells_how_much_was_done(ids: tuple[str, ...], verdict: str, headline: str) -> None:
    """A deed that did nothing is not headed as done."""
    broker, made = await stocked("t-1", delay_ms=3_600_000)
    plan = plans.Plan(action=BY_ID["task.retry"], rows=[TaskLine(one, one) for one in ids])

    receipt = await deeds.carry_out(plan, deeds.Office(broker, Controller(broker), made))

    assert receipt.verdict == verdict
    assert headline in receipt.headline


async def test_several_marked_tasks_need_their_number_typed() -> None:
    broker, made = await stocked("t-1", "t-2", "t-3")
    app = app_over(broker, made)
    async with app.run_test(size=(100, 30)) as pilot:
        await pilot.press("4", "l")
        await pilot.pause()
        await pilot.press("space", "space", "K")
        dialog = await asked(app, pilot)
        yes = dialog.query_one("#yes", Button)
        assert yes.disabled
        dialog.query_one(Input).focus()
        await pilot.press("4", "enter")
        assert isinstance(app.screen, Confirm)
        assert yes.disabled

        await pilot.press("backspace", "2", "enter")
        assert "2 tasks revoked" in await answered(app)
        assert [await state_of(broker, each) for each in ("t-1", "t-2", "t-3")] == ["revoked", "revoked", "queued"]


async def test_a_hard_deed_cannot_be_done_with_y_alone() -> None:
    broker, made = await stocked("task-number-one")
    app = app_over(broker, made)
    async with app.run_test(size=(100, 30)) as pilot:
        await pilot.press("4", "l", "ctrl+k")
        dialog = await asked(app, pilot)
        await pilot.press("y")
        await pilot.pause()
        assert app.screen is dialog

        dialog.query_one(Input).value = "mber-one"
        await pilot.pause()
        dialog.query_one("#yes", Button).press()
        await answered(app)
        assert await state_of(broker, "task-number-one") == "revoked"


async def test_a_pause_asks_nothing_and_can_be_taken_back() -> None:
    broker, made = await stocked("t-1")
    app = app_over(broker, made)
    async with app.run_test(size=(100, 30)) as pilot:
        await pilot.pause()
        app.draw_now()
        await pilot.press("P")

        async def paused() -> bool:
            return [pause.target for pause in await broker.census.pauses()] == ["mail"]

        await eventually(paused)
        await eventually(lambda: "queue mail paused" in text_of(app) and "u undo" in text_of(app))
        (pause,) = await broker.census.pauses()
        assert pause.actor == "tester"

        made.apply(await take(broker, clock=SystemClock()), 2.0)
        await pilot.press("u")
        await eventually(lambda: "queue mail resumed" in text_of(app))
        assert await broker.census.pauses() == []


async def test_every_name_among_the_marked_tasks_is_paused() -> None:
    """Two tasks of one name and one of another are two names, whichever come first."""
    broker, _ = await stocked("t-1", "t-2")
    other = NewTask(id="t-3", task="report", queue="mail", body=Envelope(id="t-3", task="report").encode())
    await broker.enqueue([other])
    made = state()
    made.apply(await take(broker, clock=SystemClock(), pages=["queued"]), 1.0)
    app = app_over(broker, made)
    async with app.run_test(size=(100, 30)) as pilot:
        await pilot.press("4", "l")
        await settled(pilot)
        await pilot.press("space", "space", "space", "P")
        dialog = await asked(app, pilot)
        assert "2 task names" in text_of(app)
        dialog.query_one(Input).focus()
        await pilot.press("2", "enter")

        async def paused() -> bool:
            return sorted(pause.target for pause in await broker.census.pauses()) == ["mail.send", "report"]

        await eventually(paused)


async def test_a_worker_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deeds, "ASK_S", 0.2)
    broker, made = await stocked("t-1", worker=True)
    app = app_over(broker, made)
    async with app.run_test(size=(100, 30)) as pilot:
        await pilot.pause()
        app.draw_now()
        await pilot.press("P")

        text = await answered(app)
        assert "0 of 1 workers confirmed, 1 did not answer" in text
        assert "! deaf  no answer in 0." in text
        assert app.session.receipt is not None
        assert app.session.receipt.verdict == "part"


class Answering:
    """A controller whose commands all have this result; `meanwhile` happens before it is there."""

    def __init__(self, result: CommandResult, meanwhile: Callable[[], object] = lambda: None) -> None:
        self._result, self._meanwhile = result, meanwhile

    async def _answer(self, *_: object, **__: object) -> CommandResult:
        self._meanwhile()
        return self._result

    revoke = shutdown = pause = resume = _answer


async def came_of(plan: plans.Plan, made: ClusterState, controller: Any) -> deeds.Receipt:
    return await deeds.carry_out(plan, deeds.Office(InMemoryBroker(), controller, made))


@pytest.mark.parametrize("action", ["task.revoke", "task.terminate", "worker.kill"])
async def test_what_a_worker_took_but_has_not_done_yet_is_not_over(action: str) -> None:
    made = fleet()
    worker = made.workers["api-7-ab12"]
    row, outcome = (worker, "set") if action == "worker.kill" else (TaskLine("t-1", "t-1"), "running")
    result = CommandResult(
        command_id="c", expected=1, applied=0, elapsed_ms=3_000.0, waited_out=True,
        items=[CommandItem(target=row.key, worker=worker.key, stage="applied", changed=True, outcome=outcome)],
        workers=[Confirmation(id=worker.key, name="api", stage="applied", rtt_ms=3.0)],
    )  # fmt: skip

    receipt = await came_of(plans.Plan(action=BY_ID[action], rows=[row]), made, Answering(result))

    assert receipt.verdict == "part"
    assert receipt.headline.endswith(": not over yet at 1 worker after 3.0s; it goes on by itself")
    signs = [line[1].text for line in receipt.lines if len(line) > 3]
    assert signs == ["!", "!"]


async def test_a_worker_that_was_resumed_can_be_paused_again_whatever_was_seen_meanwhile() -> None:
    made = fleet()
    worker = made.workers["api-7-ab12"]
    by_id = Pause(kind="worker", target=worker.key, actor="ana", reason="", at_ms=NOW)
    made.apply(snapshot(pauses=[by_id]), 2_000.0)
    result = CommandResult(
        command_id="c", items=[CommandItem(target=worker.key, stage="effect", changed=True, outcome="cleared")]
    )
    controller = Answering(result, lambda: made.apply(snapshot(pauses=[]), 2_001.0))

    receipt = await came_of(plans.Plan(action=BY_ID["worker.pause"], rows=[worker], way="resume"), made, controller)

    assert receipt.undo is not None
    assert (receipt.undo.way, list(receipt.undo.rows)) == ("pause", [worker])


async def test_read_only_sends_nothing() -> None:
    broker, made = await stocked("t-1")
    app = app_over(broker, made, read_only=True)
    async with app.run_test(size=(100, 30)) as pilot:
        await pilot.pause()
        app.draw_now()
        assert text_of(app).splitlines()[0].endswith(" RO")
        await pilot.press("P")
        await eventually(lambda: "started with --read-only, nothing was sent" in text_of(app))
        await pilot.press("4", "l", "K")
        await pilot.pause()

        assert not isinstance(app.screen, Confirm)
        assert await broker.census.pauses() == []


async def test_nothing_is_sent_while_the_link_is_down() -> None:
    broker, made = await stocked("t-1")
    session = make_session(made, broker)
    session.link.phase = "DOWN"
    app = make_app(session, broker)
    async with app.run_test(size=(100, 30)) as pilot:
        await pilot.pause()
        app.draw_now()
        await pilot.press("P")

        await eventually(lambda: "not connected, nothing was sent" in text_of(app))
        assert await broker.census.pauses() == []


async def test_a_broker_error_is_said_and_the_app_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    broker, made = await stocked("t-1")

    async def refuse(*_: object, **__: object) -> None:
        raise BrokerUnreachableError("connection refused \x1b[2J")

    monkeypatch.setattr(broker.control, "issue", refuse)
    app = app_over(broker, made)
    async with app.run_test(size=(100, 30)) as pilot:
        await pilot.pause()
        app.draw_now()
        await pilot.press("P")

        await eventually(lambda: "pause queue mail: look whether it was applied: connection refused" in text_of(app))
        assert app.is_running


async def test_the_menu_names_what_can_be_done_and_does_it() -> None:
    broker, made = await stocked("t-1", delay_ms=3_600_000)
    app = app_over(broker, made)
    async with app.run_test(size=(100, 30)) as pilot:
        await pilot.press("4", "l", "l")
        await pilot.pause()
        await pilot.press("x")
        await eventually(lambda: "Revoke" in text_of(app) and "task t-1" in text_of(app))
        await pilot.press("R")

        await asked(app, pilot)
        assert "Retry task t-1?" in text_of(app)


async def test_stopping_a_worker_shows_its_id_and_asks() -> None:
    broker, made = await stocked("t-1", worker=True)
    app = app_over(broker, made)
    async with app.run_test(size=(100, 30)) as pilot:
        await pilot.press("3", "S")
        dialog = await asked(app, pilot)
        assert "deaf-1-aa" in text_of(app)
        assert dialog.focused is dialog.query_one("#cancel", Button)
        await pilot.press("n")

        await pilot.press("ctrl+s")
        dialog = await asked(app, pilot)
        assert dialog.query_one("#yes", Button).disabled
        assert "type deaf and ⏎ to go on" in text_of(app)


async def test_there_is_nothing_to_do_in_an_empty_list() -> None:
    broker = InMemoryBroker()
    app = app_over(broker, state())
    async with app.run_test(size=(100, 30)) as pilot:
        for key in ("P", "enter", "x", "space", "asterisk", "G", "K", "y", "u", "a"):
            await pilot.press(key)
        await pilot.pause()

        assert not app.errors
        assert app.screen.query_one("#queues", Grid).row is None


@pytest.mark.parametrize(
    "keys",
    [("3", "S"), ("3", "ctrl+s"), ("3", "x"), ("4", "l", "K"), ("2", "ctrl+d"), ("2", "H"), ("2", "e"), ("2", ":")],
    ids="-".join,
)
async def test_dialogs_fit_the_smallest_terminal(keys: tuple[str, ...]) -> None:
    broker, made = await stocked("t-1", "t-2", "t-3", "t-4", "t-5", "t-6", worker=True)
    app = app_over(broker, made)
    async with app.run_test(size=(60, 16)) as pilot:
        await pilot.press(*keys)
        await eventually(lambda: len(app.screen_stack) == 2)
        await pilot.pause()

        text = text_of(app)
        if keys[-1] == ":":
            assert "tab complete" in text
            return
        assert "╭" in text
        assert "╰" in text
        assert "Cancel" in text or keys[-1] in ("x", "H", "e")


async def test_nothing_is_taken_back_beside_the_news_of_another_deed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What failed last is not what `u` would have taken back."""
    broker, _ = await stocked("t-1")
    await broker.enqueue([NewTask(id="e-1", task="etl", queue="etl", body=Envelope(id="e-1", task="etl").encode())])
    made = state()
    made.apply(await take(broker, clock=SystemClock()), 1.0)
    app = app_over(broker, made)
    async with app.run_test(size=(100, 30)) as pilot:
        await settled(pilot)
        await pilot.press("P")
        await eventually(lambda: "paused" in text_of(app) and "u undo" in text_of(app))
        (first,) = await broker.census.pauses()

        async def refuse(*_: object, **__: object) -> None:
            raise BrokerUnreachableError("connection refused")

        with monkeypatch.context() as patch:
            patch.setattr(broker.control, "issue", refuse)
            await pilot.press("j", "P")
            await eventually(lambda: "look whether it was applied: connection refused" in text_of(app))
        assert "u undo" not in text_of(app)
        await pilot.press("u")
        await settled(pilot)

        assert [pause.target for pause in await broker.census.pauses()] == [first.target]
        assert "connection refused" in text_of(app)


async def test_a_deed_in_a_frozen_picture_is_of_now() -> None:
    """What is paused for a time goes on for as long as was left, not for as long as was left when it was frozen."""
    broker, made = await stocked("t-1")
    await Controller(broker, actor="ana").pause("queue", ["mail"], for_s=600)
    made.apply(await take(broker, clock=SystemClock()), 2.0)
    app = app_over(broker, made)
    session = app.session
    (held,) = session.state.pauses
    assert held.until_ms is not None
    clock = session.clock
    assert isinstance(clock, FakeClock)
    clock.set_wall_ms(held.until_ms - 600_000 - made.offset_ms)
    async with app.run_test(size=(100, 30)) as pilot:
        await settled(pilot)
        await pilot.press("z")
        clock.set_wall_ms(held.until_ms - 60_000 - made.offset_ms)
        await pilot.press("P")
        await eventually(lambda: session.undo is not None)

        assert session.undo is not None
        assert session.undo[0].for_s == 60
        stamp = figures.clock(held.until_ms - 60_000)
        await eventually(lambda: f"queue mail resumed · {stamp}" in text_of(app))


@pytest.mark.parametrize(
    "keys", [("3", "S"), ("3", "ctrl+s"), ("4", "l", "asterisk", "K"), ("2", "ctrl+d")], ids="-".join
)
@pytest.mark.parametrize("step", ["down", "pagedown"])
async def test_all_of_a_question_can_be_read_by_keys_in_the_smallest_terminal(keys: tuple[str, ...], step: str) -> None:
    broker, made = await stocked("t-1", "t-2", "t-3", "t-4", "t-5", "t-6", worker=True)
    app = app_over(broker, made)
    async with app.run_test(size=(60, 16)) as pilot:
        await pilot.press(*keys)
        dialog = await asked(app, pilot)
        lines = ["".join(cell.text for cell in line).strip() for line in dialog.question.lines]
        assert "↑↓ more" in text_of(app)
        read = text_of(app)
        for _ in lines:
            await pilot.press(step)
            read += text_of(app)

        assert [line for line in lines if line not in read] == []
        assert lines[0] not in text_of(app)
        await pilot.press(*[step.replace("down", "up")] * len(lines))
        assert lines[0] in text_of(app)
        assert app.screen is dialog
        await pilot.press("enter")
        await eventually(lambda: not isinstance(app.screen, Confirm))
    assert await state_of(broker, "t-1") == "queued"
