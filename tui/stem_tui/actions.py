"""Everything a key can do, in one table: bindings, the hint line, the `x` menu and the help are made of it. Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, Literal

Scope = Literal["app", "list", "text", "queue", "worker", "task", "failure", "event"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """One thing to do.

    Attributes:
        keys: as Textual names them; `shown` is how people write the first of them.
        scope: where the key works; of `queue worker task failure event`, what it acts on.
        tier: of a change: 0 reversible, no question; 1 one item, asks; 2 many or lossy, asks for a word. None: a look.
        hint: its place in the hint line, least first; 0 leaves it out.
    """

    id: str
    keys: tuple[str, ...]
    shown: str
    label: str
    help: str
    scope: Scope
    tier: int | None = None
    hint: int = 0

    @property
    def changes(self) -> bool:
        return self.tier is not None


def _look(scope: Scope, name: str, keys: str, shown: str, label: str, help_text: str, hint: int = 0) -> Action:
    return Action(
        id=f"{scope}.{name}", keys=tuple(keys.split(",")), shown=shown, label=label, help=help_text, scope=scope,
        hint=hint,
    )  # fmt: skip


def _deed(scope: Scope, name: str, key: str, shown: str, label: str, help_text: str, tier: int, hint: int) -> Action:
    return Action(
        id=f"{scope}.{name}", keys=(key,), shown=shown, label=label, help=help_text, scope=scope, tier=tier, hint=hint
    )


ACTIONS: Final = (
    _look("app", "overview", "1", "1", "Overview", "What flows, where it is stuck, who is sick, what fails", 1),
    _look("app", "queues", "2", "2", "Queues", "All queues; enter opens one", 2),
    _look("app", "workers", "3", "3", "Workers", "All workers, also those that stopped in the last hour", 3),
    _look("app", "tasks", "4", "4", "Tasks", "Tasks by state; enter opens one", 4),
    _look("app", "events", "5", "5", "Events", "What happened, newest first", 5),
    _look("app", "next_panel", "tab", "tab", "Next panel", "Move to the next panel"),
    _look("app", "previous_panel", "shift+tab", "⇧tab", "Previous panel", "Move to the previous panel"),
    _look("app", "filter", "slash", "/", "Filter", "Filter the panel with the cursor; esc clears it", 30),
    _look("app", "freeze", "z", "z", "Freeze", "Freeze the picture; the fleet runs on", 40),
    _look("app", "menu", "x", "x", "Actions", "All that can be done with the row under the cursor", 20),
    _look("app", "answers", "a", "a", "Answers", "Show again who answered the last command, and how"),
    _look("app", "undo", "u", "u", "Undo", "Undo a pause or resume, for a few seconds after it"),
    _look("app", "reconnect", "r", "r", "Now", "Ask the broker now, without waiting for the next attempt"),
    _look("app", "copy", "y", "y", "Copy id", "Copy the id of the row under the cursor"),
    _look("app", "theme", "T", "T", "Colours", "Next set of colours"),
    _look("app", "faster", "plus", "+", "Faster", "Draw more often, up to 20 times a second"),
    _look("app", "slower", "minus", "-", "Slower", "Draw less often, down to once a second"),
    _look("app", "help", "question_mark,f1", "?", "Help", "This page"),
    _look("app", "back", "escape,q", "esc", "Back", "Clear the filter, or one step back; q on a first screen quits"),
    _look("app", "quit", "ctrl+c,ctrl+q", "^C", "Quit", "Quit from anywhere"),
    _look("list", "down", "j,down", "j ↓", "Down", "Next row"),
    _look("list", "up", "k,up", "k ↑", "Up", "Previous row"),
    _look("list", "page_down", "pagedown", "pgdn", "Page down", "A page on"),
    _look("list", "page_up", "pageup", "pgup", "Page up", "A page back"),
    _look("list", "first", "g,home,f", "g f", "First", "First row, and follow what comes in at the top"),
    _look("list", "last", "G,end", "G", "Last", "Last row"),
    _look("list", "open", "enter", "⏎", "Open", "Details of a worker or task; the tasks of a queue or failure", 10),
    _look("list", "sort_on", "greater_than_sign", ">", "Sort", "Sort by the next column"),
    _look("list", "sort_back", "less_than_sign", "<", "Sort", "Sort by the previous column"),
    _look("list", "invert", "I", "I", "Invert", "Turn the order round"),
    _look("list", "mark", "space", "space", "Mark", "Mark the row, for doing something with several"),
    _look("list", "mark_all", "asterisk", "*", "Mark all", "Mark all rows in view, as filtered"),
    _look("list", "clear_marks", "ctrl+backslash", "^\\", "Unmark", "Clear all marks"),
    _look("text", "left", "h,left", "h ←", "Left", "Of a list of tasks: the state before. Of a text: to the left"),
    _look("text", "right", "l,right", "l →", "Right", "Of a list of tasks: the next state. Of a text: to the right"),
    _deed("queue", "pause", "P", "P", "Pause", "Hand out nothing more of this queue, or resume it; stored, so it"
          " holds for workers that start later", 0, 12),
    _deed("worker", "pause", "P", "P", "Pause", "Hand this worker no more tasks, or resume it", 0, 12),
    _deed("worker", "stop", "S", "S", "Stop", "Warm stop: takes nothing more, finishes what runs, leaves", 1, 13),
    _deed("worker", "kill", "ctrl+s", "^S", "Stop hard", "Hard stop: what runs is handed back now and runs elsewhere"
          " again", 2, 0),
    _look("worker", "stack", "t", "t", "Stack", "Ask the worker where its threads and tasks are in the code", 14),
    _deed("task", "revoke", "K", "K", "Revoke", "It never starts (again); where it runs, it is asked to stop", 1, 12),
    _deed("task", "terminate", "ctrl+k", "^K", "Terminate", "Revoke, and where it runs, make it stop", 2, 0),
    _deed("task", "retry", "R", "R", "Retry", "A dead letter gets a new life; a scheduled or retrying task runs now",
          1, 13),
)  # fmt: skip

BY_ID: Final = {action.id: action for action in ACTIONS}


def deeds(kind: str) -> list[Action]:
    """Return what can be done with a row of this kind."""
    return [action for action in ACTIONS if action.scope == kind]


def deed_keys() -> list[str]:
    """Return the keys that act on the row under the cursor."""
    kinds = ("queue", "worker", "task", "failure", "event")
    return sorted({key for action in ACTIONS if action.scope in kinds for key in action.keys})


def find(kind: str, key: str) -> Action | None:
    """Return what this key does with a row of this kind."""
    return next((action for action in deeds(kind) if key in action.keys), None)


def hints(kinds: Collection[str], *, writes: bool) -> list[tuple[Action, bool]]:
    """Return the hint line for a panel of these kinds: actions in order, and whether each works now."""
    scopes = {"app", *kinds}
    shown = sorted((action for action in ACTIONS if action.hint and action.scope in scopes), key=lambda each: each.hint)
    return [(action, writes or not action.changes) for action in shown]
