"""The block of rates: value, chart and note side by side. Draws what it is shown."""

from __future__ import annotations

from collections.abc import Sequence

from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip
from textual.widget import Widget

from stem_tui import figures
from stem_tui.chrome import Tile
from stem_tui.theme import Cell, Look
from stem_tui.widgets.paint import both_ends
from stem_tui.width import cut


class Rates(Widget):
    """Four tiles of three lines and an empty line; or, one line high, the cells of `line`."""

    DEFAULT_CSS = "Rates { height: 1; width: 1fr; }"

    def __init__(self, look: Look, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.look = look
        self._tiles: Sequence[Tile] = ()
        self._line: Sequence[Cell] = ()
        self._stale = False

    def show(self, tiles: Sequence[Tile], line: Sequence[Cell], *, stale: bool) -> None:
        if (tiles, line, stale) != (self._tiles, self._line, self._stale):
            self._tiles, self._line, self._stale = tiles, line, stale
            self.refresh()

    def render_line(self, y: int) -> Strip:
        return self._line_at(y).apply_style(self.rich_style)

    def _line_at(self, y: int) -> Strip:
        if self.size.height == 1:
            return both_ends(self._line, (), self.size.width, self.look, fill=Cell(" "), stale=self._stale)
        if y > 2 or not self._tiles:
            return Strip.blank(self.size.width)
        width, strips = self.size.width // len(self._tiles), []
        for number, tile in enumerate(self._tiles):
            strips.append(self._tile(tile, y, width - 3))
            separator = " " if number == len(self._tiles) - 1 else "│"
            strips.append(Strip([Segment(self.look.text(f" {separator}"), self.look.style("rule"))]))
        return Strip.join(strips).crop_extend(0, self.size.width, Style())

    def _tile(self, tile: Tile, y: int, width: int) -> Strip:
        name, value, tone, series, note = tile
        if y == 0:
            left, right = [Cell(f" {name}", "head")], [Cell(value, tone)]
            return both_ends(left, right, width + 1, self.look, fill=Cell(" "), stale=self._stale)
        tone = "stale" if self._stale else ("bad" if name == "FAIL" else "accent") if y == 1 else "dim"
        text = figures.spark(series, width) if y == 1 else note
        return Strip([Segment(cut(" " + text, width + 1, look=self.look), self.look.style(tone))])
