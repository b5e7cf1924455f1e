"""Which generated part stands on which page, and how a page is filled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from tests.prove import document
from tests.reference import commands, control, metrics, settings, signals

ROOT: Final = Path(__file__).resolve().parents[2]

PARTS: Final[dict[str, dict[str, Callable[[], str]]]] = {
    "docs/cli.md": {
        "stemctl": commands.stemctl,
        "stem-worker": commands.stem_worker,
        "stem-tui": commands.stem_tui,
        "exit-codes": commands.exit_codes,
    },
    "docs/configuration.md": {"settings": settings.settings_table},
    "docs/control.md": {
        "control-commands": control.commands,
        "control-inspections": control.inspections,
        "control-errors": control.errors,
    },
    "docs/monitoring.md": {"metrics": metrics.metrics},
    "docs/signals.md": {"signals-common": signals.common, "signals": signals.signals},
}


def pages() -> Iterator[str]:
    """Return the pages that have generated parts."""
    yield from PARTS


def filled(page: str, text: str) -> str:
    """Return the page's text with every generated part as the program is now.

    Raises:
        ValueError: the page has no place for one of them.
    """
    for place, make in PARTS[page].items():
        text = document.filled(place, make(), text, name=page)
    return text
