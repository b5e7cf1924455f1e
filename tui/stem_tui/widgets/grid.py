"""The list of every screen: a virtual grid that draws the lines in view and repaints those that changed.

Textual's DataTable repaints the whole viewport for one changed cell and blocks the loop for seconds at 100 000 rows;
here the cost does not depend on the number of rows. The cursor is a key, not a place: rows may move under it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Final

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import BindingType
from textual.geometry import Region
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

from stem_tui.columns import Column, Sorting, View, fit
from stem_tui.theme import Cell, Look
from stem_tui.widgets.keys import bindings
from stem_tui.widgets.paint import both_ends, segments
from stem_tui.width import cut

HEAD_LINES: Final = 2
_GUTTER: Final = 3
_NEAR: Final = 1_000
_NONE: Final = Style()


class Grid(Widget, can_focus=True, inherit_bindings=False):
    """Shows rows of one view. It holds no data but the rows it was last shown, and what its lines look like.

    `lines_made` and `lines_painted` count its work: rows that were made into a line, and lines that were drawn anew.

    Line 0 is a rule with the title, the count and a note; line 1 the column heads; then the rows, or `empty`.
    """

    BINDINGS: ClassVar[list[BindingType]] = bindings("move", "list")
    DEFAULT_CSS = "Grid { height: 1fr; width: 1fr; }"
    # By `on_click`, once the row is known: a filter line that loses the focus closes, and rows move under the pointer
    # before the button is let go.
    FOCUS_ON_CLICK = False

    class Opened(Message):
        """Enter, or a double click, on a row."""

        def __init__(self, grid: Grid, row: Any) -> None:
            super().__init__()
            self.grid = grid
            self.row = row

    class Missed(Message):
        """Enter, where no row is: the one that was meant may have gone a moment ago."""

    class Changed(Message):
        """The order or a mark changed: whoever feeds this grid shall show it again."""

        def __init__(self, grid: Grid) -> None:
            super().__init__()
            self.grid = grid

    class Fixed(Message):
        """Another order was asked for, where there is but one."""

        def __init__(self, grid: Grid) -> None:
            super().__init__()
            self.grid = grid

    class Moved(Message):
        """The cursor moved; the grid has painted that itself."""

    def __init__(self, view: View[Any], look: Look, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self.look = look
        self.view = view
        self.sorting = Sorting()
        self.marked: set[str] = set()
        self.everything = False
        self.cursor_key: str | None = None
        self.following = True
        self.rows: Sequence[Any] = ()
        self._index = 0
        self._top = 0
        self._now_ms = 0
        self._title: Sequence[Cell] = ()
        self._note: Sequence[Cell] = ()
        self._empty: Sequence[str] = ()
        self._stale = False
        self._fitted: list[tuple[Column[Any], int]] = []
        self._painted: list[Strip] = []
        self._base = _NONE
        self._fitted_to: tuple[View[Any] | None, int] = (None, 0)
        self._made: dict[int, tuple[object, Strip]] = {}
        self.lines_made = self.lines_painted = 0

    # --------------------------------------------------------------------------------------------------------- showing

    def show(
        self,
        rows: Sequence[Any],
        now_ms: int,
        *,
        count: str = "",
        note: Sequence[Cell] = (),
        empty: Sequence[str] = (),
        stale: bool = False,
        title: str = "",
        view: View[Any] | None = None,
    ) -> None:
        """Show these rows (already filtered and ordered), and repaint the lines that look different now."""
        if view is not None and view is not self.view:
            self.view, self.sorting, self.cursor_key, self._top, self.following = view, Sorting(), None, 0, True
            self.marked.clear()
            self.everything = False
        self.rows, self._now_ms, self._empty, self._stale = rows, now_ms, empty, stale
        if self.marked:
            # A mark goes with its row: what is not in view is not acted on either.
            self.marked &= {self.view.key(row) for row in rows}
        turned = self.sorting.down and not self.sorting.column
        self._title = (
            Cell(title or self.view.title, "title"),
            Cell(f" {count}" if count else "", "strong"),
            *([Cell(" ▼ turned round", "accent")] if turned else []),
        )
        self._note = note
        self._place_cursor()
        self._repaint()

    def _place_cursor(self) -> None:
        """Find the row of the cursor again; where it has gone, stay at its place."""
        if not self.rows:
            self._index = self._top = 0
            self.cursor_key, self.following = None, True
            return
        before = self._index
        if self.cursor_key is None:
            self._index = 0
        elif self.following:
            self._index = self._still_in_view(self.cursor_key)
            self._top = 0
        else:
            self._index = self._find(self.cursor_key, min(before, len(self.rows) - 1))
            if before or self._top:
                # The row under the cursor stays on its line of the screen, whatever comes in above it.
                self._top += self._index - before
        self.cursor_key = self.view.key(self.rows[self._index])
        self._scroll_to_cursor()

    def _still_in_view(self, key: str) -> int:
        """Return where the first page has the row that the cursor was put on; where it has not, the first place.

        A list that nobody has moved in shows its top. But a row that somebody looks at is not to change under a finger
        that is about to press a key, only because another queue has more tasks now.
        """
        if self._follows or not self.has_focus:
            return 0
        return next((index for index, row in enumerate(self.rows[: self._page]) if self.view.key(row) == key), 0)

    @property
    def _follows(self) -> bool:
        """The newest row comes in at the top, and a cursor there goes on to it."""
        return self.view.follows and self.sorting == Sorting()

    def _find(self, key: str, near: int) -> int:
        get = self.view.key
        # Rows come in above it, so it is a little further down; only after that anywhere.
        for index in range(near, min(near + _NEAR, len(self.rows))):
            if get(self.rows[index]) == key:
                return index
        return next((index for index, row in enumerate(self.rows) if get(row) == key), near)

    def _scroll_to_cursor(self) -> None:
        page = self._page
        top = min(max(self._top, self._index - page + 1), self._index)
        self._top = max(0, min(top, len(self.rows) - page))

    @property
    def _page(self) -> int:
        return max(1, self.size.height - HEAD_LINES)

    def _repaint(self) -> None:
        width, height = self.size.width, self.size.height
        if width <= 0 or height <= 0:
            return
        self._fit(width)
        self._base = self.rich_style
        strips = [self._line(y, width, height) for y in range(height)]
        old, self._painted = self._painted, strips
        for y, strip in enumerate(strips):
            if y >= len(old) or (old[y] is not strip and old[y] != strip):
                self.lines_painted += 1
                self.refresh(Region(0, y, width, 1))

    def _fit(self, width: int) -> None:
        if self._fitted_to[0] is not self.view or self._fitted_to[1] != width:
            self._fitted_to = self.view, width
            self._fitted = fit(self.view.columns, max(1, width - _GUTTER - 1))
            self._made.clear()

    def render_line(self, y: int) -> Strip:
        if len(self._painted) != self.size.height or (
            self._painted and self._painted[0].cell_length != self.size.width
        ):
            self._painted = []
            self._scroll_to_cursor()
            self._fit(self.size.width)
            self._base = self.rich_style
            self._painted = [self._line(line, self.size.width, self.size.height) for line in range(self.size.height)]
        return self._painted[y] if y < len(self._painted) else Strip.blank(self.size.width, self.rich_style)

    def _line(self, y: int, width: int, height: int) -> Strip:
        if y == 0:
            looks: object = (self._title, tuple(self._note), self.has_focus, self._stale, self.look, self._base)
            return self._kept(y, looks, lambda: self._rule(width))
        if y == 1:
            looks = (self.sorting, self.look, self._base)
            return self._kept(y, looks, lambda: self._head(width))
        index = self._top + y - HEAD_LINES
        if index < len(self.rows):
            return self._row(index, width, y, height)
        blank = ""
        if not self.rows and 0 <= y - HEAD_LINES < len(self._empty):
            blank = self._empty[y - HEAD_LINES]
        tone = "stale" if self._stale else "dim"
        return self._kept(y, (blank, tone, self.look, self._base), lambda: self._blank(blank, tone, width))

    def _kept(self, y: int, looks: object, make: Callable[[], Strip]) -> Strip:
        """Return the line as it was made for the same looks: most lines say what they said the last time."""
        made = self._made.get(y)
        if made is None or made[0] != looks:
            self.lines_made += 1
            made = self._made[y] = looks, make()
        return made[1]

    def _blank(self, text: str, tone: str, width: int) -> Strip:
        line = Segment(cut("   " + text, width, look=self.look), self.look.style(tone))
        return Strip([line], width).apply_style(self._base)

    def _rule(self, width: int) -> Strip:
        tone = "accent" if self.has_focus else "rule"
        left = [Cell("─ ", tone), *self._title, Cell(" ", tone)]
        room = width - sum(len(cell.text) for cell in left) - 4
        notes = list(self._note)
        while len(notes) > 1 and sum(len(part.text) + 3 for part in notes) > room:
            notes.pop(0)
        if notes and len(notes[0].text) + 3 > room:
            notes = [Cell(cut(notes[0].text, room - 3, look=self.look).rstrip(), notes[0].tone)] if room > 12 else []
        right: list[Cell] = []
        for part in notes:
            right += [Cell(" · " if right else " ", "faint"), part]
        if right:
            right.append(Cell(" ─", tone))
        line = both_ends(left, right, width, self.look, fill=Cell("─", tone), stale=self._stale)
        return line.apply_style(self._base)

    def _head(self, width: int) -> Strip:
        text = [" " * _GUTTER]
        for number, (column, size) in enumerate(self._fitted):
            mark = ""
            if self.sorting.column == column.key:
                mark = "▼" if self.sorting.down else "▲"
            gap = " " if number else ""
            text.append(gap + cut(column.title + mark, size, right=column.align == "right", look=self.look))
        line = Strip([Segment("".join(text), self.look.style("head"))]).crop_extend(0, width, _NONE)
        return line.apply_style(self._base)

    def _row(self, index: int, width: int, y: int, height: int) -> Strip:
        row, now_ms = self.rows[index], self._now_ms
        here, marked = index == self._index, self.view.key(row) in self.marked
        over = ("cursor" if self.has_focus else "cursor_off") if here and self._cursor_shown else ""
        gutter = (" ▸" if over else "  ") + ("●" if marked else " ")
        said = [column.cell(row, now_ms) for column, _ in self._fitted]
        bar = self._bar(y, height)
        looks = (said, gutter, over, bar, self._stale, self.look, self._base)
        return self._kept(y, looks, lambda: self._row_line(said, gutter, over, bar, width))

    def _row_line(self, said: Sequence[Cell], gutter: str, over: str, bar: str, width: int) -> Strip:
        cells = [Cell(gutter, "accent")]
        for number, ((column, size), (text, tone)) in enumerate(zip(self._fitted, said, strict=True)):
            shown = cut(text, size, right=column.align == "right", look=self.look)
            cells.append(Cell(f" {shown}" if number else shown, tone))
        style = self.look.style(over) if over else _NONE
        parts = segments(cells, self.look, over=style, under=self._base, stale=self._stale)
        taken = _GUTTER + sum(size for _, size in self._fitted) + len(self._fitted) - 1
        if taken > width - 1:  # too narrow for what always stays
            parts = list(Strip(parts).crop(0, width - 1))
        elif taken < width - 1:
            parts.append(Segment(" " * (width - 1 - taken), self._base + style))
        parts.append(Segment(self.look.text(bar), self._base + self.look.style("faint")))
        return Strip(parts, width)

    @property
    def _cursor_shown(self) -> bool:
        return self.has_focus or not self.following

    def _bar(self, y: int, height: int) -> str:
        """Return this line's piece of the scroll bar: nothing, where all rows are in view."""
        page, total = height - HEAD_LINES, len(self.rows)
        if total <= page:
            return " "
        size = max(1, page * page // total)
        start = round((page - size) * self._top / max(1, total - page))
        return "█" if start <= y - HEAD_LINES < start + size else "│"

    # ------------------------------------------------------------------------------------------------------ the cursor

    @property
    def row(self) -> Any | None:
        """The row under the cursor."""
        return self.rows[self._index] if self.rows else None

    def chosen(self) -> list[Any]:
        """Return the marked rows in view, or else the one under the cursor."""
        if self.marked:
            return [row for row in self.rows if self.view.key(row) in self.marked]
        return [] if self.row is None else [self.row]

    def _go(self, index: int) -> None:
        if not self.rows:
            return
        self._index = max(0, min(index, len(self.rows) - 1))
        # Where nothing new comes in at the top, the first row is put the cursor on like any other.
        self.following = self._index == 0 and self._follows
        self.cursor_key = self.view.key(self.rows[self._index])
        self._scroll_to_cursor()
        self._repaint()
        self.post_message(self.Moved())

    def action_move(self, step: int) -> None:
        self._go(self._index + step)

    def action_page(self, step: int) -> None:
        self._go(self._index + step * max(1, self._page - 1))

    def action_first(self) -> None:
        self._go(0)

    def action_last(self) -> None:
        self._go(len(self.rows) - 1)

    def action_open(self) -> None:
        self.post_message(self.Missed() if self.row is None else self.Opened(self, self.row))

    def action_sort(self, step: int) -> None:
        sortable = [column for column, _ in fit(self.view.columns, self.size.width - _GUTTER - 1) if column.sort]
        if not sortable:
            self.post_message(self.Fixed(self))
            return
        keys = ["", *(column.key for column in sortable)]
        here = keys.index(self.sorting.column) if self.sorting.column in keys else 0
        chosen = (here + step) % len(keys)
        self._sort(Sorting(keys[chosen], chosen > 0 and sortable[chosen - 1].down))

    def action_invert(self) -> None:
        if not any(column.sort for column in self.view.columns):
            self.post_message(self.Fixed(self))
            return
        self._sort(Sorting(self.sorting.column, not self.sorting.down))

    def _sort(self, sorting: Sorting) -> None:
        self.sorting = sorting
        if self.following:
            self.cursor_key = None
        self.post_message(self.Changed(self))

    def action_mark(self) -> None:
        if self.row is None:
            return
        self.marked ^= {self.view.key(self.row)}
        self.everything = False
        self._go(self._index + 1)
        self.post_message(self.Changed(self))

    def action_mark_all(self) -> None:
        self.marked = {self.view.key(row) for row in self.rows}
        self.post_message(self.Changed(self))

    def action_everything(self) -> None:
        """Mean all that pass the filter, also what is not listed; only tasks are ever more than what is listed."""
        if self.view.kind == "task" and self.rows:
            self.action_mark_all()
            self.everything = True
        else:
            self.action_mark_all()

    def action_clear_marks(self) -> None:
        self.marked.clear()
        self.everything = False
        self.post_message(self.Changed(self))

    # ----------------------------------------------------------------------------------------------------------- mouse

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        event.stop()
        self._go(self._index + 3)

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        event.stop()
        self._go(self._index - 3)

    def on_click(self, event: events.Click) -> None:
        self.focus()
        if event.y == 1:
            self._sort_at(event.x)
        elif event.y >= HEAD_LINES and self._top + event.y - HEAD_LINES < len(self.rows):
            if event.chain == 2:
                self.action_open()  # the row that the first click has chosen, wherever it stands by now
            else:
                self._go(self._top + event.y - HEAD_LINES)

    def _sort_at(self, x: int) -> None:
        start = _GUTTER
        for column, size in self._fitted:
            if start <= x < start + size + 1 and column.sort is not None:
                again = self.sorting.column == column.key
                self._sort(Sorting(column.key, not self.sorting.down if again else column.down))
                return
            start += size + 1

    def on_focus(self) -> None:
        self._repaint()

    def on_blur(self) -> None:
        self._repaint()

    def on_resize(self) -> None:
        self._painted = []
        self._place_cursor()
        self.refresh()
