"""Text that means harm, in every field of every list and detail: nothing moves, nothing is done, nothing breaks."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any

import pytest

from stem.adapters.memory import InMemoryBroker
from stem.messages.audit import Deed
from stem.messages.status import ErrorInfo, TaskState
from stem_tui.app import StemTUI
from stem_tui.widgets.grid import Grid
from tests.fuzz.corpus import nasty_strings
from tests.observe.builders import event, final, page, queue, running, seen, snapshot, state, status
from tests.tui.still import make_app, make_session, settled

HOSTILE = "\x1b]0;owned\x07\x9b2J[/red][@click=app.quit]x\u202e\u200b\ud800\n"


def hostile_fleet() -> Any:
    made = state()
    task = running(HOSTILE, task=HOSTILE, queue=HOSTILE, progress={HOSTILE: HOSTILE})
    failure = ErrorInfo(type=HOSTILE, message=HOSTILE)
    worker = seen(HOSTILE, name=HOSTILE, host=HOSTILE, version=HOSTILE, queues=(HOSTILE,), paused=(HOSTILE,),
                  counters={HOSTILE: 1}, running=(task,), in_flight=1)  # fmt: skip
    for second in (0.0, 1.0):
        made.apply(
            snapshot(
                queues=[queue(HOSTILE, ready=1, in_flight=1, dead=1)],
                workers=[worker],
                history=[final(HOSTILE + "1", TaskState.FAILED, task=HOSTILE, error_type=HOSTILE, worker=HOSTILE)],
                pages={"dead": page(status(HOSTILE + "2", TaskState.FAILED, task=HOSTILE, error=failure))},
            ),
            second,
        )
    detail = {"error": HOSTILE, "message": HOSTILE, "progress": HOSTILE, "how": HOSTILE}
    made.apply_events([event("task.failed", HOSTILE + "3", task=HOSTILE, worker=HOSTILE, detail=detail),
                       event(HOSTILE, HOSTILE, task=HOSTILE, worker=HOSTILE)])  # fmt: skip
    return made


def harmless(app: StemTUI, width: int) -> None:
    """See that what is on the screen fits it, and holds nothing but characters to be read."""
    for strip in app.screen._compositor.render_strips():
        assert strip.cell_length <= width
        assert all(segment.control is None or not segment.control for segment in strip)
        # Spaces of other widths are told from letters by nobody, but they move nothing.
        assert all(char.isprintable() or unicodedata.category(char) == "Zs" for char in strip.text), ascii(strip.text)
        assert not any(segment.style and segment.style.meta.get("@click") for segment in strip)


@pytest.mark.parametrize("size", [(80, 24), (160, 45)], ids=lambda size: f"{size[0]}x{size[1]}")
async def test_hostile_text_in_every_field_moves_nothing_and_does_nothing(size: tuple[int, int]) -> None:
    app = make_app(make_session(hostile_fleet(), namespace="ns", url="redis://h"))
    walks = [(), ("enter",), ("3",), ("enter",), ("x",), ("escape",), ("S",), ("n",), ("1",), ("tab", "tab", "enter"),
             ("4",), ("l", "l"), ("enter",), ("K",), ("n",), ("x",), ("escape",),
             ("2",), ("j", "enter"), ("l", "l"), ("escape",), ("5",), ("l",), ("l", "l"), ("enter",),
             ("6",)]  # fmt: skip
    async with app.run_test(size=size) as pilot:
        await settled(pilot)
        for keys in walks:
            await pilot.press(*keys)
            await settled(pilot)

            harmless(app, size[0])
        assert not app.errors
        assert app.is_running


async def corpus_broker(texts: Sequence[str]) -> InMemoryBroker:
    """Return a broker whose audit has these texts in every field that somebody fills in."""
    broker = InMemoryBroker()
    for number, text in enumerate(texts):
        fields: dict[str, Any] = {"actor": text, "reason": text, "option": text, "targets": [text]}
        await broker.control.record(Deed(id=f"c{number}", verb="purge", kind="queue", count=1, **fields))
    return broker


def corpus_fleet(texts: Sequence[str]) -> Any:
    """Return a fleet that has a queue, a worker, tasks, failures and events of each of these texts."""
    made = state()
    workers, tasks, ended, dead = [], [], [], []
    for number, text in enumerate(texts):
        task = running(f"{number}{text}", task=text, queue=text, progress={text: text, "percent": text})
        fields: dict[str, Any] = {"name": text, "host": text, "version": text, "queues": (text,), "paused": (text,)}
        workers.append(seen(f"{number}{text}", running=(task,), in_flight=1, counters={text: 1}, **fields))
        ended.append(final(f"e{number}{text}", TaskState.FAILED, task=text, queue=text, error_type=text, worker=text))
        error = ErrorInfo(type=text, message=text)
        dead.append(status(f"d{number}{text}", TaskState.FAILED, task=text, queue=text, error=error))
        detail = {"error": text, "message": text, "progress": text, "how": text}
        for kind in ("task.failed", "task.retried", "worker.stopping", text):
            tasks.append(event(kind, f"v{number}{text}", task=text, queue=text, worker=text, detail=detail))
    for second in (0.0, 1.0):
        queues = [queue(text, ready=1, in_flight=1, dead=1) for text in texts]
        pages: Any = {"dead": page(*dead)}
        made.apply(snapshot(queues=queues, workers=workers, history=ended, pages=pages), second)
    made.apply_events(tasks)
    return made


@pytest.mark.timeout(120)
async def test_the_whole_corpus_in_every_field_of_every_list_and_detail() -> None:
    texts = nasty_strings()
    app = make_app(make_session(corpus_fleet(texts), namespace="ns", url="redis://h"), await corpus_broker(texts))
    async with app.run_test(size=(160, 45)) as pilot:
        await settled(pilot)
        for mode in "23456":
            await pilot.press(mode)
            await settled(pilot)
            grid = app.screen.query_one(Grid)
            for _ in range(len(grid.rows) // 40 + 1):
                harmless(app, 160)
                await pilot.press("pagedown")
                await pilot.pause()
            harmless(app, 160)
        await pilot.press("4", "l", "l", "l", "l", "l")  # what is dead, with its errors
        await settled(pilot)
        harmless(app, 160)
        for mode in "234":
            await pilot.press(mode)
            for _ in range(len(texts) // 16):
                app.screen.query_one(Grid).action_move(16)
                await pilot.press("enter")
                await pilot.pause()
                harmless(app, 160)
                await pilot.press("escape")
        assert not app.errors
        assert app.is_running
