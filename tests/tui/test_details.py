"""What the details of a worker and of a task say that was asked for: while there is an answer, and after."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from stem.control.answer import Answer, Answers, Silent
from stem.messages.envelope import Envelope
from stem.messages.status import TaskState, TaskStatus
from stem.testing import FakeClock
from stem_tui import figures, taskdetail
from stem_tui.app import StemTUI
from stem_tui.screens.details import TaskScreen
from stem_tui.widgets.pane import Facts
from tests.observe.builders import NOW, state
from tests.tui.still import make_app, make_session, settled, text_of
from tests.tui.test_acting import slow
from tests.tui.test_deeds import app_over, stocked
from tests.waiting import eventually


def answers(*workers: Answer, silent: Sequence[Silent] = ()) -> Answers:
    return Answers(expected=1, replied=len(workers), silent=silent, elapsed_ms=3.0, workers=workers)


@pytest.mark.parametrize(
    ("later", "words"),
    [
        ("connection refused", "connection refused"),
        (answers(Answer(id="api-7-ab12", name="api", ok=False, error_message="not now")), "refused: not now"),
        (answers(silent=[Silent(id="api-7-ab12", name="api", diagnosis="deaf", last_heartbeat_ms=NOW)]), "is deaf"),
        (answers(), "is not known any more"),
    ],
    ids=["unreachable", "refused", "silent", "unmatched"],
)
async def test_what_a_worker_said_before_is_not_shown_as_of_now(
    later: Any, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = make_session()
    app = make_app(session)
    said = {"pools": {"threads": 3, "processes": 2}, "children": [{"pid": 77, "state": "idle"}]}
    given: list[Any] = [answers(Answer(id="api-7-ab12", name="api", ok=True, data=said))]

    async def stats(worker: str) -> Any:
        return given[0]

    monkeypatch.setattr(app.reader, "stats", stats)
    async with app.run_test(size=(120, 40)) as pilot:
        await app.open_row(session.state.workers["api-7-ab12"])
        await eventually(lambda: "3 threads, 2 child processes" in text_of(app))
        assert "stale" not in tones_of(app, "3 threads")

        given[0] = later
        clock = session.clock
        assert isinstance(clock, FakeClock)
        clock.advance(6.0)
        session.link.answered_s = clock.monotonic()
        await eventually(lambda: words in text_of(app))
        await settled(pilot)

        assert tones_of(app, "3 threads") == {"stale"}
        assert tones_of(app, "pid 77") == {"stale"}


def tones_of(app: StemTUI, text: str) -> set[str]:
    """Return the tones of the fact that has this text."""
    lines = [line for line in app.screen.query_one(Facts).lines if text in "".join(cell.text for cell in line)]
    assert lines, text
    return {cell.tone for line in lines for cell in line}


@pytest.mark.parametrize("keys", [("P",), ("H", "1", "0", "m", "enter"), ("colon", *"pause", "enter")], ids="".join)
async def test_a_task_that_no_list_holds_is_paused_by_the_name_it_is_shown_with(keys: tuple[str, ...]) -> None:
    broker, _ = await stocked("t-1")
    app = app_over(broker, state())
    async with app.run_test(size=(100, 30)) as pilot:
        await pilot.press("colon", *"task t-1", "enter")
        await eventually(lambda: "TASK mail.send" in text_of(app))
        await pilot.press(*keys)
        await eventually(lambda: "task mail.send paused" in text_of(app))

    assert [(pause.kind, pause.target) for pause in await broker.census.pauses()] == [("task", "mail.send")]


async def test_a_stack_that_comes_after_its_screen_was_closed_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    session = make_session()
    app = make_app(session)
    asks, comes = asyncio.Event(), asyncio.Event()

    async def stack(worker: str) -> str:
        asks.set()
        await comes.wait()
        return "no answer"

    monkeypatch.setattr(app.reader, "stack", stack)
    async with app.run_test(size=(100, 30)) as pilot:
        await pilot.press("3")
        await settled(pilot)
        await pilot.press("t")
        await asyncio.wait_for(asks.wait(), 10)
        await pilot.press("escape")
        await settled(pilot)
        comes.set()
        await settled(pilot)

        assert app.errors == []
        assert session.notice is None


async def test_a_task_whose_name_has_not_come_yet_is_not_paused_by_none(monkeypatch: pytest.MonkeyPatch) -> None:
    broker, _ = await stocked("t-1")
    app = app_over(broker, state())
    _, answers = slow(broker, monkeypatch)
    async with app.run_test(size=(100, 30)) as pilot:
        await pilot.press("colon", *"task t-1", "enter")
        await eventually(lambda: isinstance(app.screen, TaskScreen))
        await pilot.press("P")
        await eventually(lambda: "the name of this task is not known (yet)" in text_of(app))
        answers.set()
        await eventually(lambda: "TASK mail.send" in text_of(app))

    assert await broker.census.pauses() == []


def test_a_result_is_laid_out_anew_only_where_it_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The task screen asks every second, and gets equal answers that are not the same objects."""
    laid_out: list[Any] = []
    lines_of = figures.value_lines

    def noted(value: Any) -> list[str]:
        laid_out.append(value)
        return lines_of(value)

    monkeypatch.setattr(figures, "value_lines", noted)
    payloads = taskdetail.Payloads()

    def shown(result: Any, *, token: int = 1) -> str:
        status = TaskStatus(
            id="t-1",
            task="job",
            queue="q",
            state=TaskState.SUCCEEDED,
            token=token,
            result=result,
            progress=len(laid_out),
        )
        answer = taskdetail.TaskAnswer(id="t-1", status=status, envelope=Envelope(id="t-1", task="job", args={"x": 4}))
        lines = taskdetail.task_lines(None, answer, "t-1", NOW, 100, payloads=payloads)
        return "\n".join("".join(cell.text for cell in line) for line in lines)

    first, again = shown({"sum": 5}), shown({"sum": 5})
    assert laid_out == [{"sum": 5}, {"x": 4}]
    assert '"sum": 5' in first
    assert '"sum": 5' in again

    assert '"sum": 6' in shown({"sum": 6})
    assert laid_out[2:] == [{"sum": 6}]
    assert "true" in shown({"sum": True}, token=2)
