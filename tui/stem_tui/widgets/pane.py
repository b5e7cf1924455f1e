"""Lines of cells that can be scrolled: details, tracebacks, help, what a dialog says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import BindingType
from textual.strip import Strip
from textual.widget import Widget

from stem_tui.theme import Cell, Look
from stem_tui.widgets.keys import bindings
from stem_tui.widgets.paint import segments

CellLine = Sequence[Cell]


class Pane(Widget, can_focus=True, inherit_bindings=False):
    """Shows lines; longer ones are cut at the edge, `h` and `l` move sideways."""

    BINDINGS: ClassVar[list[BindingType]] = bindings("move", "text")
    DEFAULT_CSS = "Pane { height: 1fr; width: 1fr; }"

    def __init__(self, look: Look, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self.look = look
        self.lines: Sequence[CellLine] = ()
        self._top = self._left = 0
        self._stale = False

    def show(self, lines: Sequence[CellLine], *, stale: bool = False) -> None:
        if lines != self.lines or stale != self._stale:
            self.lines, self._stale = lines, stale
            self._move(self._top)
            self.refresh()

    def render_line(self, y: int) -> Strip:
        return self._line(y).apply_style(self.rich_style)

    def _line(self, y: int) -> Strip:
        width, index = self.size.width, self._top + y
        if index >= len(self.lines):
            return Strip.blank(width)
        strip = Strip(segments(self.lines[index], self.look, stale=self._stale))
        room = width - 1
        strip = strip.crop_extend(self._left, self._left + room, Style())
        return Strip([*strip, Segment(self.look.text(self._bar(y)), self.look.style("faint"))])

    def _bar(self, y: int) -> str:
        page, total = self.size.height, len(self.lines)
        if total <= page:
            return " "
        size = max(1, page * page // total)
        start = round((page - size) * self._top / max(1, total - page))
        return "█" if start <= y < start + size else "│"

    def _move(self, top: int) -> None:
        top = max(0, min(top, len(self.lines) - self.size.height))
        if top != self._top:
            self._top = top
            self.refresh()

    def action_move(self, step: int) -> None:
        self._move(self._top + step)

    def action_page(self, step: int) -> None:
        self._move(self._top + step * max(1, self.size.height - 1))

    def action_first(self) -> None:
        self._move(0)

    def action_last(self) -> None:
        self._move(len(self.lines))

    def action_sideways(self, step: int) -> None:
        self._left = max(0, self._left + step)
        self.refresh()

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        event.stop()
        self._move(self._top + 3)

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        event.stop()
        self._move(self._top - 3)

    def on_resize(self) -> None:
        self._move(self._top)


class Facts(Pane, can_focus=False):
    """A pane that is only looked at."""
