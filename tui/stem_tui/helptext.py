"""The help page, made of the table of actions. Pure."""

from __future__ import annotations

import textwrap
from typing import Final

from stem_tui.actions import ACTIONS, SCOPES, Action, Scope
from stem_tui.theme import Cell

_TIERS: Final = {0: "", 1: "asks", 2: "asks for a word"}
_INDENT: Final = 24
_FILTER: Final = (
    ("word", "any column has it"),
    ("!word", "no column has it"),
    ("/re/", "a column matches the pattern"),
    ("name:mail.*", "name of a task, queue or worker, with * and ?; name:=mail.send is all of it"),
    ("state:failed,retry", "one of these states; the beginning is enough"),
    ("q: w: id: error:", "queue, worker, id (its beginning, or the end that lists show), error"),
    ("age>10s took>1s tries>=3", "numbers and times: 500ms 10s 5m 2h 1d"),
)


_WORDS: Final = (
    "Counts are the broker's own, asked for once a second; events only add what happened in between.",
    "Grey: the picture is old, the first line says since when. Times are UTC, by the broker's clock.",
)


def lines(width: int, kind: str = "") -> list[list[Cell]]:
    """Return the page, wrapped to `width`; what concerns a panel of this kind stands first."""
    page: list[list[Cell]] = []
    for words in (
        "pgdn: more. esc: back. Lower case looks, upper case acts, ctrl acts hard; several rows always ask.",
    ):
        page += _paragraph(words, width, tone="strong")
    for scope, title in sorted(SCOPES, key=lambda each: each[0] != kind):
        page += [[], [Cell(f"  {title.upper()}", "title")]]
        for action in ACTIONS:
            if action.scope == scope:
                page += _entry(action, width)
    page += [[], [Cell("  THE FILTER", "title")]]
    page += [[Cell(f"  {form:<26}", "key"), Cell(meaning)] for form, meaning in _FILTER]
    page += [[], [Cell("  WHAT IT SHOWS", "title")]]
    for words in _WORDS:
        page += _paragraph(words, width)
    return page


def markdown() -> str:
    """Return the keys as tables for the documentation."""
    parts = [_table(scope, title) for scope, title in SCOPES]
    return "\n\n".join(parts) + "\n"


def _table(scope: Scope, title: str) -> str:
    rows = [
        f"| `{action.shown}` | {action.label} | {action.help}{_asks(action)} |"
        for action in ACTIONS
        if action.scope == scope
    ]
    return "\n".join([f"### {title}", "", "| key | | |", "|---|---|---|", *rows])


def _asks(action: Action) -> str:
    asks = _TIERS.get(action.tier or 0, "")
    return f" ({asks})" if asks else ""


def _paragraph(words: str, width: int, tone: str = "text") -> list[list[Cell]]:
    return [[Cell(f"  {line}", tone)] for line in textwrap.wrap(words, max(20, width - 4))]


def _entry(action: Action, width: int) -> list[list[Cell]]:
    words = textwrap.wrap(action.help + _asks(action), max(20, width - _INDENT - 2))
    # A command's own name is longer than a key, and says what the label would.
    head = f"  {action.shown:<7}{action.label}" if action.keys else f"  {action.shown}"
    first = [Cell(head[:9], "key"), Cell(f"{head[9:]:<{_INDENT - 9}}", "strong"), Cell(words[0])]
    return [first, *([Cell(" " * _INDENT + line)] for line in words[1:])]
