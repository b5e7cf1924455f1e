"""One line of cells with two ends: header, rates, notice and hint are made of it."""

from __future__ import annotations

from collections.abc import Sequence

from textual.strip import Strip
from textual.widget import Widget

from stem_tui.theme import Cell, Look
from stem_tui.widgets.paint import both_ends


class Line(Widget):
    """Shows some cells at the left and some at the right; what does not fit at the right is left out, first ones first.

    `show` draws nothing when nothing changed.
    """

    DEFAULT_CSS = "Line { height: 1; width: 1fr; }"

    def __init__(self, look: Look, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self.look = look
        self._left: tuple[Cell, ...] = ()
        self._right: tuple[Cell, ...] = ()

    def show(self, left: Sequence[Cell], right: Sequence[Cell] = ()) -> None:
        ends = tuple(left), tuple(right)
        if ends != (self._left, self._right):
            self._left, self._right = ends
            self.refresh()

    @property
    def left(self) -> Sequence[Cell]:
        """What is shown at the left."""
        return self._left

    def render_line(self, y: int) -> Strip:
        strip = both_ends(self._left, self._right, self.size.width, self.look, fill=Cell(" "))
        return strip.apply_style(self.rich_style)
