"""One worker, one task, one text: where enter leads. Escape goes back."""

from __future__ import annotations

from typing import Any, Final

from textual.app import ComposeResult

from stem.observe.rows import TaskLine, WorkerLine
from stem_tui import details, select, tasks
from stem_tui.screens.base import LiveScreen
from stem_tui.session import Session
from stem_tui.theme import Cell
from stem_tui.widgets.grid import Grid
from stem_tui.widgets.pane import CellLine, Facts, Pane

_FACTS: Final = 9
_FACTS_LOW: Final = 5


class WorkerScreen(LiveScreen):
    """What a worker is, what it runs now, and its last events."""

    def __init__(self, session: Session, key: str, name: str) -> None:
        super().__init__(session)
        self.key = key
        self.shown_name = name

    def body(self) -> ComposeResult:
        look = self.session.look
        yield Facts(look, id="facts")
        yield Grid(tasks.RUNNING_HERE, look, id="worker-tasks")
        yield Grid(select.EVENTS_HERE, look, id="worker-events")

    @property
    def worker(self) -> WorkerLine | None:
        return self.session.state.workers.get(self.key)

    def subject(self) -> tuple[str, Any] | None:
        worker = self.worker
        return None if worker is None else ("worker", worker)

    def fill(self, now_ms: int) -> None:
        state, worker = self.session.state, self.worker
        if worker is None:
            lines = [[Cell(f"   {self.shown_name} has not been heard of for an hour.", "dim")]]
        else:
            lines = details.worker_lines(worker, now_ms, self.size.width)
        facts = self.query_one(Facts)
        facts.styles.height = _FACTS if self.size.height >= 22 else _FACTS_LOW
        facts.show(lines, stale=self.session.stale)
        self.panel(
            self.query_one("#worker-tasks", Grid),
            lambda: [row for row in state.running.values() if row.owner == self.key],
            now_ms,
            empty="running",
            note=self._more,
        )
        name = self.shown_name if worker is None else worker.name
        self.panel(
            self.query_one("#worker-events", Grid),
            lambda: select.event_rows(state, without=select.CHATTER, worker=name),
            now_ms,
            count=lambda _: "",
            sort=False,
        )

    def _more(self, rows: object) -> list[Cell]:
        worker = self.worker
        listed = len(rows) if isinstance(rows, list) else 0
        if worker is None or worker.in_flight <= listed or not worker.in_flight:
            return []
        return [Cell(f"{worker.in_flight:,} in flight", "dim")]


class TaskScreen(LiveScreen):
    """All that is known of one task, asked for anew while it is open."""

    def __init__(self, session: Session, row: TaskLine) -> None:
        super().__init__(session)
        self.task_id = row.key
        self.row = row
        self.answer: details.TaskAnswer | None = None
        self._asked_s = 0.0

    def body(self) -> ComposeResult:
        yield Pane(self.session.look, id="task")

    def subject(self) -> tuple[str, Any] | None:
        return "task", self.row

    def fill(self, now_ms: int) -> None:
        now_s = self.session.clock.monotonic()
        if now_s - self._asked_s >= 1.0:
            self._asked_s = now_s
            self.dashboard.ask_task(self)
        row = self.session.state.tasks.get(self.task_id, self.row)
        state = self.session.state
        lines = details.task_lines(
            row, self.answer, self.task_id, now_ms, self.size.width, name_of=lambda worker: state.owner(worker)[1]
        )
        self.query_one(Pane).show(lines, stale=self.session.stale)


class TextScreen(LiveScreen):
    """Lines to read, such as a stack or the help."""

    def __init__(self, session: Session, lines: list[list[Cell]]) -> None:
        super().__init__(session)
        self.text: list[CellLine] = list(lines)

    def body(self) -> ComposeResult:
        yield Pane(self.session.look, id="text")

    def set_lines(self, lines: list[list[Cell]]) -> None:
        self.text = list(lines)
        self.draw()

    def fill(self, now_ms: int) -> None:
        self.query_one(Pane).show(self.text)
