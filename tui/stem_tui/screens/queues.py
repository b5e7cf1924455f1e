"""All queues, and one of them: its tasks by state, how fast it flows, and who works on it."""

from __future__ import annotations

from textual.app import ComposeResult

from stem_tui import select
from stem_tui.screens.base import LiveScreen
from stem_tui.widgets.grid import Grid


class QueuesScreen(LiveScreen):
    """Every queue."""

    def body(self) -> ComposeResult:
        yield Grid(select.QUEUES, self.session.look, id="all-queues")

    def fill(self, now_ms: int) -> None:
        state = self.session.state
        self.panel(
            self.query_one(Grid),
            lambda: select.queue_rows(state),
            now_ms,
            note=lambda _: select.queue_note(state),
        )
