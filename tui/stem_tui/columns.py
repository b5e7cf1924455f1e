"""What a list is made of: columns that fit a width, rows with a key, an order. Pure, knows no widget."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, Literal, TypeVar, overload

from stem.record import record
from stem_tui.filter import Fields
from stem_tui.theme import Cell

R = TypeVar("R")
MANY: Final = 1_000


@record
class Column(Generic[R]):
    """One column.

    Attributes:
        width: the least it needs; `grow` is its share of what is left over.
        keep: 0 stays always; of the others the greatest goes first where there is no room.
        sort: what rows are ordered by, as the cell shows it; rows of which it is None come last either way. None: this
            column does not sort.
        down: it sorts from the greatest first.
    """

    key: str
    title: str
    width: int
    cell: Callable[[R, int], Cell]
    grow: int = 0
    keep: int = 0
    align: Literal["left", "right"] = "left"
    sort: Callable[[R], Any] | None = None
    down: bool = False


@record
class View(Generic[R]):
    """One kind of list.

    Attributes:
        kind: what its rows are: `queue worker task failure event action`; it decides the keys that act on them.
        key: tells rows apart, over changes.
        fields: for the filter.
        order: without a sort column chosen; None: rows come in their order.
        follows: the first row is the newest, and a cursor on it goes on to the next one that comes.
    """

    kind: str
    title: str
    columns: Sequence[Column[R]]
    key: Callable[[R], str]
    fields: Fields = field(default_factory=dict)
    order: Callable[[R], Any] | None = None
    order_down: bool = False
    follows: bool = False


@dataclass(frozen=True, slots=True)
class Sorting:
    """The column chosen to sort by, and whether from the greatest; empty: the view's own order, turned round or not."""

    column: str = ""
    down: bool = False


def fit(columns: Sequence[Column[R]], width: int) -> list[tuple[Column[R], int]]:
    """Return the columns that fit `width` and how wide each is; drops by `keep`, shares the rest by `grow`."""
    kept = list(columns)

    def needed() -> int:
        return sum(column.width for column in kept) + len(kept) - 1

    while needed() > width:
        droppable = [column for column in kept if column.keep]
        if not droppable:
            break
        kept.remove(max(droppable, key=lambda column: column.keep))
    spare, shares = width - needed(), sum(column.grow for column in kept)
    widths = []
    for column in kept:
        extra = 0
        if spare > 0 and column.grow:
            extra = spare * column.grow // shares
            spare, shares = spare - extra, shares - column.grow
        widths.append(column.width + extra)
    if spare < 0:
        # Not even the columns that stay have room: the widest gives way.
        widest = max(range(len(widths)), key=widths.__getitem__)
        widths[widest] = max(1, widths[widest] + spare)
    return list(zip(kept, widths, strict=True))


def ordered(view: View[R], rows: Sequence[R], sorting: Sorting) -> list[R]:
    """Return the rows in the order asked for; equal ones by key, so that nothing dances.

    Of very many rows equal ones stay as they come: sorting them twice takes too long, and they come in a steady order.
    """
    column = next((each for each in view.columns if each.key == sorting.column and each.sort), None)
    order, down = (column.sort, sorting.down) if column else (view.order, view.order_down != sorting.down)
    if order is None:
        return list(rows)[::-1] if down else list(rows)
    known, unknown = list[R](), list[R]()
    for row in rows if len(rows) > MANY else sorted(rows, key=view.key):
        (unknown if order(row) is None else known).append(row)
    return sorted(known, key=order, reverse=down) + unknown


class Ordered(Sequence[R]):
    """Rows in an order of which the first are known; all are put in order once somebody looks further than those.

    Args:
        first: the first rows.
        rows: all of them, in any order.
        order: where each belongs; no two rows at the same place.
    """

    def __init__(self, first: Sequence[R], rows: Sequence[R], order: Callable[[R], Any]) -> None:
        self._first, self._rows, self._order = first, rows, order
        self._whole: list[R] | None = None

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> R: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[R]: ...

    def __getitem__(self, index: int | slice) -> R | Sequence[R]:
        last = index.stop - 1 if isinstance(index, slice) and index.start is None and index.stop else index
        near = isinstance(last, int) and 0 <= last < len(self._first)
        return (self._first if near else self._all())[index]

    def __iter__(self) -> Iterator[R]:
        return iter(self._all())

    def _all(self) -> list[R]:
        if self._whole is None:
            self._whole = sorted(self._rows, key=self._order)
        return self._whole
