"""What happened: the tail of events, and who commanded what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Final

from textual.app import ComposeResult
from textual.binding import BindingType

from stem.observe.rows import EventLine
from stem.observe.state import EVENTS_KEPT
from stem_tui import chrome, figures, select
from stem_tui.audit import AUDIT, AuditLine
from stem_tui.screens.base import LiveScreen
from stem_tui.session import Session
from stem_tui.theme import Cell
from stem_tui.widgets.grid import Grid
from stem_tui.widgets.keys import bindings
from stem_tui.widgets.line import Line
from stem_tui.work import work

_AUDIT_S: Final = 2.0
_SAMPLED_MS: Final = 5_000
TABS: Final = ("notable", "failures", "fleet", "all")


class EventsScreen(LiveScreen):
    """What happened, newest first; it follows what comes until the cursor leaves the first row."""

    BINDINGS: ClassVar[list[BindingType]] = bindings("tabs")

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self.tab = TABS[0]

    def body(self) -> ComposeResult:
        yield Line(self.session.look, id="tabs")
        yield Grid(select.EVENTS, self.session.look, id="all-events")

    def fill(self, now_ms: int) -> None:
        state = self.session.state
        here = TABS.index(self.tab)
        self.query_one("#tabs", Line).show(*chrome.tabs(TABS, [""] * len(TABS), here, self.size.width))
        self.panel(
            self.query_one(Grid),
            lambda: select.event_rows(state, self.tab, limit=EVENTS_KEPT),
            now_ms,
            part=self.tab,
            note=self._note,
            sort=False,
        )

    def _note(self, rows: object) -> list[Cell]:
        """Say what is not in view: newer ones above, those of other tabs, and those that were missed."""
        grid = self.query_one(Grid)
        notes = [*self.frozen.once(("notes", self.tab), lambda: self._missing(rows))]
        newer = self._newer(grid)
        if grid.following:
            notes.append(Cell("following", "ok"))
        else:
            notes.append(Cell(f"▲ {newer:,} newer · f" if newer else "f follows", "key"))
        return notes

    def _missing(self, rows: object) -> list[Cell]:
        state, notes = self.session.state, list[Cell]()
        if state.incomplete(self.session.now_ms):
            notes.append(Cell(f"! events missed at {figures.clock(state.gap_ms)}", "warn"))
        if self.session.now_ms - state.sampled_ms < _SAMPLED_MS:
            notes.append(Cell("a part of what goes well", "dim"))
        shown = len(rows) if isinstance(rows, list) else 0
        if (hidden := len(state.events) - shown) > 0:
            notes.append(Cell(f"{hidden:,} hidden", "dim"))
        notes.append(Cell(f"{figures.rate(state.event_count.rate())} events/s", "dim"))
        return notes

    def _newer(self, grid: Grid) -> int:
        """Return how many of the rows came after the one under the cursor."""
        row = grid.row
        if not isinstance(row, EventLine):
            return 0
        return sum(each.at_ms > row.at_ms for each in grid.rows)

    def action_tab(self, step: int) -> None:
        self.tab = TABS[(TABS.index(self.tab) + step) % len(TABS)]
        self.query_one(Grid).action_first()
        self.draw_anew()


class AuditScreen(LiveScreen):
    """Who commanded what, newest first; asked for anew while it is in view."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self.rows: Sequence[AuditLine] | None = None
        self._total = 0
        self._problem = ""
        self._asked_s = -_AUDIT_S
        self._asking = False

    def body(self) -> ComposeResult:
        yield Grid(AUDIT, self.session.look, id="audit")

    def fill(self, now_ms: int) -> None:
        now_s, rows = self.session.clock.monotonic(), self.rows
        if now_s - self._asked_s >= _AUDIT_S and not self._asking and self._wanted:
            self._asked_s, self._asking = now_s, True
            self.run_worker(work(self._ask), group="audit", exit_on_error=False)
        grid = self.query_one(Grid)
        self.panel(
            grid,
            lambda: rows,
            now_ms,
            count=self._count,
            note=self._note,
            empty="asking" if rows is None else "audit",
            problem=self._problem,
            sort=False,
            whole=rows is None or len(rows) >= self._total,
        )

    @property
    def _wanted(self) -> bool:
        return self.session.phase in ("LIVE", "STALE") and not self.keeps(self.rows)

    async def _ask(self) -> None:
        try:
            answer = await self.dashboard.reader.audit()
            self._problem = answer if isinstance(answer, str) else ""
            if not isinstance(answer, str) and not self.keeps(self.rows):
                self.rows, self._total = answer
        finally:
            self._asking = False
        self.answered()

    def _count(self, listed: int) -> str:
        return f"{listed:,} of {self._total:,}" if listed < self._total else f"{listed:,}"

    def _note(self, shown: Sequence[AuditLine]) -> list[Cell]:
        failed = sum(row.verdict in ("failed", "partly") for row in shown)
        untold = sum(not row.verdict for row in shown)
        more = self.rows is not None and len(self.rows) < self._total
        notes = [Cell("older ones: stemctl audit ls", "dim")] if more else []
        notes += [Cell(f"{untold:,} without an outcome", "dim")] if untold else []
        return [*notes, Cell(f"✖ {failed:,} failed", "bad")] if failed else notes
