"""The first screen: is it flowing, where is it stuck, who is sick, what fails."""

from __future__ import annotations

from typing import Any

from textual.app import ComposeResult
from textual.containers import Container

from stem_tui import arrange, chrome, figures, select, tasks
from stem_tui.screens.base import LiveScreen
from stem_tui.theme import Cell
from stem_tui.widgets.grid import Grid
from stem_tui.widgets.rates import Rates

PANELS = ("queues", "workers", "failures", "running", "events")


class OverviewScreen(LiveScreen):
    """Rates above; queues, workers, failures, what runs longest, and where there is room the last events."""

    def body(self) -> ComposeResult:
        look = self.session.look
        yield Rates(look, id="rates")
        with Container(id="panels"):
            yield Grid(select.QUEUES, look, id="queues")
            yield Grid(select.WORKERS, look, id="workers")
            yield Grid(select.FAILURES, look, id="failures")
            yield Grid(tasks.LONGEST, look, id="running")
            yield Grid(select.EVENTS, look, id="events")

    def fill(self, now_ms: int) -> None:
        session, state = self.session, self.session.state
        workers = select.worker_rows(state, now_ms)
        failures = state.failures.groups(now_ms)
        once, width = self.frozen.once, self.size.width
        self._arrange(*once("sizes", lambda: (len(state.queues), len(workers), len(failures), len(state.running))))
        tiles, rates = once("rates", lambda: (chrome.tiles(state, width // 4), chrome.rates(state, width)))
        self.query_one(Rates).show(tiles, rates, stale=session.stale)
        grids = {name: self.query_one(f"#{name}", Grid) for name in PANELS}
        if grids["queues"].display:
            self.panel(
                grids["queues"],
                lambda: select.queue_rows(state),
                now_ms,
                note=lambda _: once("queues", lambda: select.queue_note(state)),
            )
        if grids["workers"].display:
            self.panel(grids["workers"], lambda: workers, now_ms, note=select.worker_note)
        if grids["failures"].display:
            self.panel(
                grids["failures"],
                lambda: failures,
                now_ms,
                count=lambda _: "",
                note=lambda _: once("failures", lambda: select.failure_note(state, now_ms)),
                sort=False,
            )
        if grids["running"].display:
            total = once("running", lambda: tasks.tab_count(state, "running") or 0)
            self.panel(
                grids["running"],
                lambda: tasks.longest(state, grids["running"].size.height),
                now_ms,
                count=lambda _: "",
                note=lambda _: [Cell(f"{total:,} running", "dim")],
                empty="running",
                sort=False,
            )
        if grids["events"].display:
            self.panel(grids["events"], self._events, now_ms, count=lambda _: "", note=self._event_note, sort=False)

    def _events(self) -> list[Any]:
        return select.event_rows(self.session.state, tab="notable", limit=200)

    def _event_note(self, _: object) -> list[Cell]:
        rate = self.frozen.once("events", lambda: self.session.state.event_count.rate())
        return [Cell(f"{figures.rate(rate)} events/s, the quiet ones on 5", "dim")]

    def _arrange(self, queues: int, workers: int, failures: int, running: int) -> None:
        """Give each panel its lines; does nothing when nothing changed."""
        body = self.query_one("#body")
        plan = arrange.overview(
            body.size.width, body.size.height, queues=queues, workers=workers, failures=failures, running=running
        )
        if plan == getattr(self, "_plan", None):
            return
        self._plan = plan
        heights = plan.heights
        self.query_one(Rates).styles.height = 4 if plan.tiles else 1
        for name in PANELS:
            grid = self.query_one(f"#{name}", Grid)
            grid.display = heights[name] > 0
        panels = self.query_one("#panels")
        workers_grid, events_grid = self.query_one("#workers"), self.query_one("#events")
        if plan.wide:
            left = [heights[name] for name in ("queues", "failures", "running") if heights[name]]
            panels.styles.grid_size_columns = 2
            workers_grid.styles.row_span = len(left)
            events_grid.styles.column_span = 2
            rows = [*left, heights["events"]] if heights["events"] else left
        else:
            panels.styles.grid_size_columns = 1
            workers_grid.styles.row_span = 1
            events_grid.styles.column_span = 1
            rows = [heights[name] for name in PANELS if heights[name]]
        panels.styles.grid_rows = " ".join(str(height) for height in rows)
