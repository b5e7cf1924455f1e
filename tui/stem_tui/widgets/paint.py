"""From cells to what Textual draws: plain segments, so that no text is ever read as markup."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip

from stem_tui.theme import Cell, Look
from stem_tui.width import shown

_NONE: Final = Style()


def segments(
    cells: Iterable[Cell], look: Look, *, over: Style = _NONE, under: Style = _NONE, stale: bool = False
) -> list[Segment]:
    """Return the cells in a row; `over` is laid over each style, `under` below it, and `stale` greys them all."""
    result, texts, before = list[Segment](), list[str](), ""
    # Neighbours of one tone are one segment: what Textual does with a line, it does for each of them.
    for text, tone in cells:
        tone = "stale" if stale else tone
        if texts and tone != before:
            result.append(Segment("".join(texts), under + look.style(before) + over))
            texts.clear()
        texts.append(shown(text, look))
        before = tone
    if texts:
        result.append(Segment("".join(texts), under + look.style(before) + over))
    return result


def both_ends(
    left: Sequence[Cell], right: Sequence[Cell], width: int, look: Look, *, fill: Cell, stale: bool = False
) -> Strip:
    """Return a line with something at both ends; where there is no room the right end gives way, item by item."""
    left_segments = segments(left, look, stale=stale)
    taken = sum(segment.cell_length for segment in left_segments)
    kept = list(right)
    while kept and taken + sum(cell_len(shown(cell.text, look)) for cell in kept) > width:
        kept.pop(0)
    right_segments = segments(kept, look, stale=stale)
    room = width - taken - sum(segment.cell_length for segment in right_segments)
    middle = Segment(look.text(fill.text) * max(0, room), look.style("stale" if stale else fill.tone))
    return Strip([*left_segments, middle, *right_segments]).crop_extend(0, width, Style())
