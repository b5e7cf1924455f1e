"""The table of actions is whole: keys are unique, explained and bound, and each change is carried out by somebody."""

from __future__ import annotations

import collections
import os
import re
from pathlib import Path

import pytest
from textual.binding import Binding

from stem_tui import deeds, helptext, plans
from stem_tui.actions import ACTIONS, ROWS, SCOPES, Action, find, hints
from stem_tui.app import StemTUI
from stem_tui.screens.base import LiveScreen
from stem_tui.screens.events import EventsScreen
from stem_tui.screens.lists import TasksScreen
from stem_tui.screens.queues import QueueScreen
from stem_tui.widgets.grid import Grid
from stem_tui.widgets.pane import Pane

CHANGES = [action for action in ACTIONS if action.changes]
TOGETHER = (
    *(("app", "move", "list", "tabs", "page", kind) for kind in ROWS),
    ("app", "move", "text", "worker"),
    ("app", "move", "text", "task"),
)
"""Scopes that one press of a key may mean: a list of tasks by state, and the page of a worker or task."""
HOMES: dict[str, tuple[type, ...]] = {
    "app": (StemTUI,),
    "move": (Grid, Pane),
    "list": (Grid,),
    "text": (Pane,),
    "tabs": (TasksScreen, QueueScreen, EventsScreen),
    "page": (QueueScreen,),
    **dict.fromkeys(ROWS, (LiveScreen,)),
}


def bound(place: type) -> dict[str, str]:
    """Return what this class binds: key by key, the call."""
    found = {}
    for binding in place.BINDINGS:  # type: ignore[attr-defined] # all of them are Textual's nodes
        assert isinstance(binding, Binding)
        found.update(dict.fromkeys(binding.key.split(","), binding.action))
    return found


@pytest.mark.parametrize("scopes", TOGETHER, ids="-".join)
def test_a_key_does_one_thing_in_one_place(scopes: tuple[str, ...]) -> None:
    keys = [key for action in ACTIONS if action.scope in scopes for key in action.keys]

    twice = [key for key, count in collections.Counter(keys).items() if count > 1]

    assert not twice


def test_a_name_means_one_thing_on_one_row() -> None:
    """An action of the row comes before one that works everywhere; besides that a name is given once."""
    for kind in ROWS:
        for scopes in ((kind,), ("app", "list", "command")):
            names = [name for action in ACTIONS if action.scope in scopes and action.listed for name in action.names]

            twice = [name for name, count in collections.Counter(names).items() if count > 1]
            assert not twice, (kind, scopes)


def test_ids_are_unique_and_every_scope_has_its_place_in_the_help() -> None:
    assert len({action.id for action in ACTIONS}) == len(ACTIONS)
    assert {action.scope for action in ACTIONS} <= {scope for scope, _ in SCOPES}


@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: action.id)
def test_everything_is_explained(action: Action) -> None:
    page = "\n".join("".join(cell.text for cell in line) for line in helptext.lines(300))

    assert len(action.help) > 8
    assert action.help in page
    assert len(action.label) <= 15


@pytest.mark.parametrize("action", [action for action in ACTIONS if action.keys], ids=lambda action: action.id)
def test_every_key_of_the_table_is_bound_to_something_that_is_there(action: Action) -> None:
    for place in HOMES[action.scope]:
        for key in action.keys:
            call = bound(place)[key]
            assert call == (action.call if action.scope not in ROWS else f"app.deed('{key}')")
            method = re.split(r"[.(]", call.removeprefix("app."))[0]
            home = StemTUI if call.startswith("app.") else place
            assert callable(getattr(home, f"action_{method}")), call


def test_every_key_that_is_bound_is_in_the_table() -> None:
    known = {key for action in ACTIONS for key in action.keys}

    assert {key for places in HOMES.values() for place in places for key in bound(place)} == known


def test_what_a_panel_is_about_comes_first_in_the_help() -> None:
    for kind, title in SCOPES:
        lines = ["".join(cell.text for cell in line).strip() for line in helptext.lines(100, kind)]

        titles = [line for line in lines if line in {each.upper() for _, each in SCOPES}]
        assert titles[0] == title.upper()
        assert len(titles) == len(SCOPES)


@pytest.mark.parametrize("action", CHANGES, ids=lambda action: action.id)
def test_every_change_is_carried_out_by_somebody_and_says_what_it_means(action: Action) -> None:
    assert deeds.known(action.id)
    assert len(plans.consequence(action)) > 20


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
