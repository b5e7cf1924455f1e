"""One worker, one task, one text: where enter leads. Escape goes back."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Final

from textual.app import ComposeResult

from stem.observe.rows import TaskLine, WorkerLine
from stem.text import clean
from stem_tui import details, select, taskdetail, tasks
from stem_tui.screens.base import LiveScreen
from stem_tui.session import Session
from stem_tui.theme import Cell
from stem_tui.widgets.grid import Grid
from stem_tui.widgets.pane import CellLine, Facts, Pane
from stem_tui.work import work

_FACTS_LOW: Final = 5
_STATS_S: Final = 5.0


class WorkerScreen(LiveScreen):
    """What a worker is, what it runs now, and its last events."""

    def __init__(self, session: Session, key: str, name: str) -> None:
        super().__init__(session)
        self.key = key
        self.shown_name = name
        self.stats: Mapping[str, Any] | None = None
        self.stats_problem = ""
        self._asked_s = -_STATS_S
        self._asking = False

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
        state, now = self.session.state, self.worker
        worker = next(iter(self.frozen.rows("worker", lambda: [] if now is None else [now])), None)
        if worker is None:
            lines = [[Cell(f"   {self.shown_name} has not been heard of for an hour.", "dim")]]
        else:
            self._ask_stats()
            lines = self.frozen.once("facts", partial(self._facts, worker, now_ms))
        facts, room = self.query_one(Facts), self.query_one("#body").size.height
        height = min(len(lines), max(_FACTS_LOW, room - 11))
        facts.styles.height = height
        facts.show(lines[:height], stale=self.session.stale)
        self.panel(
            self.query_one("#worker-tasks", Grid),
            lambda: [row for row in state.running.values() if row.owner == self.key],
            now_ms,
            empty="running",
            note=lambda rows: self.frozen.once("more", lambda: self._more(rows)),
        )
        name = self.shown_name if worker is None else worker.name
        self.panel(
            self.query_one("#worker-events", Grid),
            lambda: select.event_rows(state, "busy", owner=self.key, worker=name),
            now_ms,
            count=lambda _: "",
            sort=False,
        )

    def _facts(self, worker: WorkerLine, now_ms: int) -> details.Lines:
        return details.worker_lines(worker, now_ms, self.size.width, stats=self.stats, said=self.stats_problem)

    def _ask_stats(self) -> None:
        """Ask the worker for its pools and children while it is looked at; a beat does not carry them."""
        now_s, worker = self.session.clock.monotonic(), self.worker
        alive = worker is not None and worker.diagnosis not in ("lost", "stopped")
        if alive and not self._asking and now_s - self._asked_s >= _STATS_S and self.session.phase == "LIVE":
            self._asked_s, self._asking = now_s, True
            self.run_worker(work(self._fetch_stats), group="stats", exit_on_error=False)

    async def _fetch_stats(self) -> None:
        try:
            answers = await self.dashboard.reader.stats(self.key)
        finally:
            self._asking = False
        if self.keeps(self.stats):
            return
        if isinstance(answers, str):
            self.stats_problem = answers
        elif answers.workers and answers.workers[0].ok:
            self.stats, self.stats_problem = answers.workers[0].data, ""
        elif answers.workers:
            self.stats_problem = f"refused: {clean(answers.workers[0].error_message, 200)}"
        elif answers.silent:
            self.stats_problem = f"no answer: the worker is {clean(answers.silent[0].diagnosis, 20)}"
        else:
            self.stats_problem = "no answer: the worker is not known any more"
        self.answered("facts")

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
        self.answer: taskdetail.TaskAnswer | None = None
        self._payloads = taskdetail.Payloads()
        self._asked_s = 0.0
        self._asking = False

    def body(self) -> ComposeResult:
        yield Pane(self.session.look, id="task")

    def subject(self) -> tuple[str, Any] | None:
        return "task", self._known()

    def _known(self) -> TaskLine:
        """Return what is known of it as a row: one that no list holds is what the broker answered."""
        row = self.session.state.tasks.get(self.task_id, self.row)
        if row.task or self.answer is None or self.answer.status is None:
            return row
        status = self.answer.status
        answered = TaskLine(row.key, row.id)
        answered.status(status, status.state.value)
        answered.owner, answered.worker = self.session.state.owner(status.worker or "")
        return answered

    def fill(self, now_ms: int) -> None:
        now_s = self.session.clock.monotonic()
        if now_s - self._asked_s >= 1.0 and not self._asking and not self.keeps(self.answer):
            self._asked_s, self._asking = now_s, True
            self.run_worker(work(self._ask), group="task", exit_on_error=False)
        row = self.session.state.tasks.get(self.task_id, self.row)
        lines = self.frozen.once("task", partial(self._lines, row, now_ms))
        self.query_one(Pane).show(lines, stale=self.session.stale)

    def _lines(self, row: TaskLine, now_ms: int) -> details.Lines:
        return taskdetail.task_lines(
            row,
            self.answer,
            self.task_id,
            now_ms,
            self.size.width,
            name_of=lambda worker: self.session.state.owner(worker)[1],
            payloads=self._payloads,
        )

    async def _ask(self) -> None:
        try:
            answer = await self.dashboard.reader.task(self.task_id, self.answer)
        finally:
            self._asking = False
        if not self.keeps(self.answer):
            self.answer = answer
            self.answered("task")


class TextScreen(LiveScreen):
    """Lines to read, such as a stack or the help."""

    def __init__(self, session: Session, lines: list[list[Cell]]) -> None:
        super().__init__(session)
        self.text: list[CellLine] = list(lines)

    def body(self) -> ComposeResult:
        yield Pane(self.session.look, id="text")

    def set_lines(self, lines: list[list[Cell]]) -> None:
        self.text = list(lines)
        self.draw_anew()

    def fill(self, now_ms: int) -> None:
        self.query_one(Pane).show(self.text)
