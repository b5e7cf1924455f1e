"""The help page, made of the table of actions. Pure."""

from __future__ import annotations

from typing import Final

from stem_tui.actions import ACTIONS, Scope
from stem_tui.theme import Cell

_SCOPES: Final[tuple[tuple[Scope, str], ...]] = (
    ("app", "EVERYWHERE"),
    ("list", "IN A LIST"),
    ("text", "IN A TEXT, AND THE STATES OF THE TASKS SCREEN"),
    ("queue", "ON A QUEUE"),
    ("worker", "ON A WORKER"),
    ("task", "ON A TASK"),
)
_TIERS: Final = {0: "", 1: "asks", 2: "asks for a word"}
_FILTER: Final = (
    ("word", "any column has it"),
    ("!word", "no column has it"),
    ("/re/", "a column matches the pattern"),
    ("name:mail.*", "name of a task, queue or worker, with * and ?"),
    ("state:failed,retry", "one of these states; the beginning is enough"),
    ("q: w: id: error:", "queue, worker, id, error"),
    ("age>10s took>1s tries>=3", "numbers and times: 500ms 10s 5m 2h 1d"),
)


def lines() -> list[list[Cell]]:
    """Return the page."""
    page: list[list[Cell]] = [
        [Cell("  Lower case looks, upper case acts, ctrl acts hard. What acts on several rows always asks.", "strong")]
    ]
    for scope, title in _SCOPES:
        page += [[], [Cell(f"  {title}", "title")]]
        for action in ACTIONS:
            if action.scope == scope:
                asks = _TIERS.get(action.tier or 0, "")
                page.append(
                    [
                        Cell(f"  {action.shown:<7}", "key"),
                        Cell(f"{action.label:<15}", "strong"),
                        Cell(action.help, "text"),
                        Cell(f"  ({asks})" if asks else "", "warn"),
                    ]
                )
    page += [[], [Cell("  THE FILTER", "title")]]
    page += [[Cell(f"  {form:<26}", "key"), Cell(meaning)] for form, meaning in _FILTER]
    page += [
        [],
        [Cell("  WHAT IT SHOWS", "title")],
        [Cell("  Counts are the broker's own, asked for once a second; events only add what happened in between.")],
        [Cell("  Grey: the picture is old, the first line says since when. Times are UTC, by the broker's clock.")],
    ]
    return page
