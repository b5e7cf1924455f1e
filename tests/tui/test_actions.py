"""The table of keys is whole: unique, explained, bound, and each change carried out by somebody."""

from __future__ import annotations

import collections
import os
from pathlib import Path

import pytest
from textual.binding import Binding

from stem_tui import deeds, helptext
from stem_tui.actions import ACTIONS, Action, find, hints
from stem_tui.app import StemTUI
from stem_tui.screens.base import LiveScreen
from stem_tui.screens.lists import TasksScreen
from stem_tui.widgets.grid import Grid
from stem_tui.widgets.pane import Pane

CHANGES = [action for action in ACTIONS if action.changes]


def bound(*classes: type) -> set[str]:
    """Return the keys that these classes bind."""
    keys: set[str] = set()
    for each in classes:
        for binding in each.BINDINGS:  # type: ignore[attr-defined] # all of them are Textual's nodes
            assert isinstance(binding, Binding)
            keys.update(binding.key.split(","))
    return keys


def test_a_key_does_one_thing_in_one_place() -> None:
    for scope in ("queue", "worker", "task", "failure", "event"):
        keys = [key for action in ACTIONS if action.scope in ("app", "list", scope) for key in action.keys]
        twice = [key for key, count in collections.Counter(keys).items() if count > 1]
        assert not twice, (scope, twice)


def test_ids_are_unique() -> None:
    assert len({action.id for action in ACTIONS}) == len(ACTIONS)


@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: action.id)
def test_everything_is_explained(action: Action) -> None:
    page = "\n".join("".join(cell.text for cell in line) for line in helptext.lines(200))

    assert action.help
    assert action.help in page
    assert len(action.label) <= 15


@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: action.id)
def test_every_key_of_the_table_is_bound_to_something(action: Action) -> None:
    places: dict[str, tuple[type, ...]] = {"app": (StemTUI, LiveScreen), "list": (Grid,), "text": (Pane, TasksScreen)}

    assert set(action.keys) <= bound(*places.get(action.scope, (LiveScreen,)))


def test_every_key_that_is_bound_is_in_the_table() -> None:
    known = {key for action in ACTIONS for key in action.keys} | {"left_square_bracket", "right_square_bracket"}

    assert bound(StemTUI, LiveScreen, Grid, Pane, TasksScreen) <= known


@pytest.mark.parametrize("action", CHANGES, ids=lambda action: action.id)
def test_every_change_is_carried_out_by_somebody_and_says_what_it_means(action: Action) -> None:
    assert action.id in deeds._DEEDS
    assert len(deeds.consequence(action)) > 20


def test_lower_case_looks_and_upper_case_acts() -> None:
    for action in ACTIONS:
        if action.changes:
            assert action.keys[0].isupper() or action.keys[0].startswith("ctrl+"), action.id


def test_hints_grey_what_cannot_be_done() -> None:
    listed = hints({"list", "task"}, writes=False)

    assert [works for action, works in listed if action.changes]
    assert all(works != action.changes for action, works in listed)
    assert find("task", "R") is not None
    assert find("queue", "R") is None


def test_the_documentation_lists_the_keys_of_the_table() -> None:
    """`STEM_SNAPSHOTS=write` writes the tables anew."""
    path = Path(__file__).parents[2] / "docs" / "dashboard.md"
    above, mark, below = path.read_text(encoding="utf-8").partition("a test keeps it so -->\n")
    assert mark
    if os.environ.get("STEM_SNAPSHOTS") == "write":
        path.write_text(above + mark + "\n" + helptext.markdown(), encoding="utf-8")
        return

    assert below == "\n" + helptext.markdown()
