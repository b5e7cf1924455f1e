"""The places in docs/reliability.md that runs write their results into."""

from __future__ import annotations

from pathlib import Path
from typing import Final

DOCUMENT: Final = Path(__file__).resolve().parents[2] / "docs" / "reliability.md"


def write(place: str, text: str, document: Path = DOCUMENT) -> None:
    """Put `text` between `<!-- place:begin -->` and `<!-- place:end -->`.

    Raises:
        ValueError: the document has no such place.
    """
    document.write_text(filled(place, text, document.read_text("utf-8"), name=str(document)), "utf-8")


def filled(place: str, text: str, whole: str, *, name: str) -> str:
    """Return `whole` with `text` at that place; errors call it `name`. See `write`."""
    begin, end = f"<!-- {place}:begin -->", f"<!-- {place}:end -->"
    before, found, rest = whole.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"{name} has no place for {place}")
    return f"{before}{begin}\n\n{text.strip()}\n\n{end}{after}"
