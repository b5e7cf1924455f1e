"""The screens that are one long list: workers, and tasks by state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Final

from textual.app import ComposeResult
from textual.binding import BindingType

from stem.contracts import ListState
from stem.observe.rows import TaskLine
from stem.observe.state import FINAL, WAITING
from stem_tui import chrome, select, tasks
from stem_tui.recent import Recent
from stem_tui.screens.base import LiveScreen
from stem_tui.theme import Cell
from stem_tui.widgets.grid import Grid
from stem_tui.widgets.keys import bindings
from stem_tui.widgets.line import Line

TABS: Final = tuple(tasks.TABS)


class WorkersScreen(LiveScreen):
    """Every worker of the last hour."""

    def body(self) -> ComposeResult:
        yield Grid(select.WORKERS, self.session.look, id="all-workers")

    def fill(self, now_ms: int) -> None:
        state = self.session.state
        self.panel(
            self.query_one(Grid),
            lambda: select.worker_rows(state, now_ms, gone=True),
            now_ms,
            note=lambda _: self.frozen.once("note", lambda: select.worker_note(select.worker_rows(state, now_ms))),
        )


class TasksScreen(LiveScreen):
    """Tasks by state; the columns are those that matter in that state."""

    BINDINGS: ClassVar[list[BindingType]] = bindings("tabs")

    def __init__(self, session: Any) -> None:
        super().__init__(session)
        self.tab = "running"
        self._recent = Recent(self.session.state)

    def body(self) -> ComposeResult:
        yield Line(self.session.look, id="tabs")
        yield Grid(tasks.TABS[self.tab], self.session.look, id="tasks")

    def fill(self, now_ms: int) -> None:
        counts = self.frozen.once("counts", lambda: [self._total(name) for name in TABS])
        self.query_one("#tabs", Line).show(*chrome.tabs(TABS, counts, TABS.index(self.tab), self.size.width))
        grid = self.query_one(Grid)
        self.panel(
            grid,
            lambda: self._rows(grid.size.height),
            now_ms,
            view=tasks.TABS[self.tab],
            note=lambda _: self.frozen.once(("note", self.tab), self._note),
            count=lambda listed: self.frozen.once(("count", self.tab), lambda: self._count(listed)),
            whole=self._whole,
            sort=self.tab != "running",
        )

    def _rows(self, lines: int) -> Sequence[TaskLine]:
        state = self.session.state
        return tasks.longest(state, lines) if self.tab == "running" else tasks.task_rows(state, self.tab, self._recent)

    def _count(self, listed: int) -> str:
        total = tasks.tab_count(self.session.state, self.tab)
        # What the broker does not count is listed as far as it was seen: that is no total.
        return f"{listed:,} listed" if total is None else f"{total:,}"

    @property
    def _whole(self) -> bool:
        """Say whether the list holds all that there is in its state."""
        return tasks.tab_count(self.session.state, self.tab) is not None and self.tab not in self.session.state.cut

    def _total(self, tab: str) -> str:
        state = self.session.state
        total = tasks.tab_count(state, tab)
        if total is not None:
            return f"{total:,}"
        ended = state.minutes.flow().count(tab)
        return f"{ended:,}/h" if ended else ""

    def _note(self) -> list[Cell]:
        """Say where the list is not the whole: it is the first page, or what has been seen so far."""
        state = self.session.state
        if self.tab in state.cut:
            listed = len(tasks.task_rows(state, self.tab))
            return [Cell(f"the first {listed:,} are listed; a queue lists all of its own", "dim")]
        if self.tab == "all":
            cut = [name for name in ("running", *WAITING) if name in state.cut]
            first = ", ".join(f"{len(tasks.task_rows(state, name)):,} {name}" for name in cut)
            said = [Cell(f"the first {first} are listed; a queue lists all of its own", "dim")] if cut else []
            return [*said, Cell("the last ones that ended", "dim")]
        if self.tab in FINAL:
            return [Cell("the last ones", "dim")]
        return []

    def pages(self) -> set[ListState]:
        """Return the lists to be polled while this screen is open."""
        if self.tab == "all":
            return {"running", *WAITING}
        wanted: set[ListState] = {"running"}
        return wanted | {state for state in WAITING if state == self.tab}

    def states(self, grid: Grid) -> Sequence[ListState]:
        if self.tab == "all":
            return ("running", *WAITING)
        return [state for state in ("running", *WAITING) if state == self.tab]

    def show_tab(self, tab: str) -> None:
        self.tab = tab
        self.session.feed.pages = self.pages()
        self.session.feed.hurry()
        self.draw_anew()

    def action_tab(self, step: int) -> None:
        self.show_tab(TABS[(TABS.index(self.tab) + step) % len(TABS)])

    def on_screen_resume(self) -> None:
        self.session.feed.pages = self.pages()
        self.session.feed.hurry()
        super().on_screen_resume()

    def on_screen_suspend(self) -> None:
        self.session.feed.pages = {"running"}
