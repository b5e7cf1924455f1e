"""Text in terminal cells: what is shown of it, and cut to a width. Pure, knows no widget."""

from __future__ import annotations

from rich.cells import cell_len, set_cell_size

from stem.text import clean
from stem_tui.theme import Look


def shown(text: str, look: Look) -> str:
    """Return text for the terminal. It was cleaned when it came in; this is the second lock on the same door."""
    return look.text(text if text.isprintable() else clean(text, 2_000))


def cut(text: str, width: int, *, right: bool = False, look: Look) -> str:
    """Return text of exactly `width` terminal cells, with an ellipsis where it was longer."""
    text = shown(text, look)
    length = len(text) if text.isascii() else cell_len(text)
    if length > width:
        return set_cell_size(text, max(0, width - 1)) + look.text("…") if width > 0 else ""
    padding = " " * (width - length)
    return padding + text if right else text + padding
