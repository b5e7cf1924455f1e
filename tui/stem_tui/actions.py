"""Everything that can be done, in one table: keys, hint line, menu, command line, help and docs are made of it.

Pure: what an action calls is a name here, and somebody else's business.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final, Literal

from stem.record import record

Scope = Literal["app", "move", "list", "text", "tabs", "page", "command", "queue", "worker", "task", "failure", "event"]
Takes = Literal["", "queue", "worker", "task", "theme", "filter", "duration", "file"]
ROWS: Final = ("queue", "worker", "task", "failure", "event")
"""Scopes that are kinds of rows: what is in them acts on the row under the cursor, or on the marked ones."""


@record
class Action:
    """One thing to do.

    Attributes:
        keys: as Textual names them; `shown` is how people write the first of them. None: by name only.
        scope: where it works; of `ROWS`, what it acts on.
        call: of a look: the method it runs there, as Textual writes it.
        tier: of a change: 0 reversible, no question; 1 one item, asks; 2 many or lossy, asks for a word. None: a look.
        hint: its place in the hint line, least first; 0 leaves it out.
        takes: what may follow its name on the command line; `needs` says that it must.
        also: further names on the command line; those of a toggle say which way it goes.
        listed: it can be given by name.
    """

    id: str
    keys: tuple[str, ...]
    shown: str
    label: str
    help: str
    scope: Scope
    call: str = ""
    tier: int | None = None
    hint: int = 0
    takes: Takes = ""
    needs: bool = False
    also: tuple[str, ...] = ()
    listed: bool = True

    @property
    def changes(self) -> bool:
        return self.tier is not None

    @property
    def name(self) -> str:
        """What it is called on the command line."""
        return self.id.partition(".")[2].replace("_", "-")

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *self.also)

    @property
    def pauses(self) -> bool:
        return self.name in ("pause", "pause-for")


def _look(id: str, keys: str, shown: str, label: str, help_text: str, call: str, **more: Any) -> Action:
    scope: Any = id.partition(".")[0]
    return Action(
        id=id, keys=tuple(keys.split(",")) if keys else (), shown=shown, label=label, help=help_text, scope=scope,
        call=call, **more,
    )  # fmt: skip


def _move(name: str, keys: str, shown: str, label: str, help_text: str, call: str) -> Action:
    return _look(f"move.{name}", keys, shown, label, help_text, call, listed=False)


def _deed(id: str, key: str, shown: str, label: str, help_text: str, tier: int, **more: Any) -> Action:
    scope: Any = id.partition(".")[0]
    return Action(id=id, keys=(key,), shown=shown, label=label, help=help_text, scope=scope, tier=tier, **more)


def _pauses(scope: str, what: str, hint: int = 12) -> tuple[Action, Action]:
    """Return the two ways to pause one kind of thing."""
    return (
        _deed(f"{scope}.pause", "P", "P", "Pause", f"{what}, or resume it", 0, hint=hint, takes="duration",
              also=("resume",)),
        _deed(f"{scope}.pause_for", "H", "H", "Pause for…", f"{what}, for a time: it resumes by itself", 0,
              takes="duration"),
    )  # fmt: skip


_EVERYWHERE: Final = (
    _look("app.overview", "1", "1", "Overview", "What flows, where it is stuck, who is sick, what fails",
          "mode('overview')", hint=1),
    _look("app.queues", "2", "2", "Queues", "All queues; enter opens one", "mode('queues')", hint=2),
    _look("app.workers", "3", "3", "Workers", "All workers, also those that stopped in the last hour",
          "mode('workers')", hint=3),
    _look("app.tasks", "4", "4", "Tasks", "Tasks by state; enter opens one", "mode('tasks')", hint=4, takes="filter"),
    _look("app.events", "5", "5", "Events", "What happened, newest first", "mode('events')", hint=5),
    _look("app.audit", "6", "6", "Audit", "Who commanded what, when and why, and what came of it", "mode('audit')",
          hint=6),
    _look("app.next_panel", "tab", "tab", "Next panel", "Move to the next panel", "focus_next", listed=False),
    _look("app.previous_panel", "shift+tab", "⇧tab", "Previous panel", "Move to the previous panel", "focus_previous",
          listed=False),
    _look("app.filter", "slash", "/", "Filter", "Filter the panel with the cursor; esc clears it", "filter", hint=30,
          takes="filter"),
    _look("app.command", "colon,ctrl+p", ":", "Command", "Go somewhere or do something by its name; tab completes,"
          " ↑ brings back what was typed before", "command", hint=35, listed=False),
    _look("app.freeze", "z", "z", "Freeze", "Freeze the picture; the fleet runs on", "freeze", hint=40),
    _look("app.menu", "x", "x", "Actions", "All that can be done with the row under the cursor", "menu", hint=20),
    _look("app.answers", "a", "a", "Answers", "Show again who answered the last command, and how", "answers"),
    _look("app.undo", "u", "u", "Undo", "Take back a pause, resume, drain or undrain, for some seconds after it",
          "undo"),
    _look("app.reconnect", "r", "r", "Now", "Ask the broker now, without waiting for the next attempt", "reconnect"),
    _look("app.copy", "y", "y", "Copy id", "Copy the id of the row under the cursor", "copy_id"),
    _look("app.copy_command", "Y", "Y", "Copy command", "Copy the stemctl command that shows this row; in a question,"
          " a menu or the answers the one that does the same", "copy_command"),
    _look("app.export", "e", "e", "Export", "Write the rows of the panel, as filtered, to a file: .csv or .jsonl",
          "export", takes="file"),
    _look("app.theme", "T", "T", "Colours", "Next set of colours", "next_theme", listed=False),
    _look("app.faster", "plus", "+", "Faster", "Draw more often, up to 20 times a second", "pace(1)"),
    _look("app.slower", "minus", "-", "Slower", "Draw less often, down to once a second", "pace(-1)"),
    _look("app.help", "question_mark,f1", "?", "Help", "This page; what concerns the panel comes first", "help"),
    _look("app.back", "escape", "esc", "Back", "Clear the filter or the marks, or one step back", "step_back(False)",
          listed=False),
    _look("app.leave", "q", "q", "Back, quit", "One step back; on a first screen it quits", "step_back(True)",
          listed=False),
    _look("app.quit", "ctrl+c,ctrl+q", "^C", "Quit", "Quit from anywhere", "quit", also=("q",)),
)  # fmt: skip

_MOVING: Final = (
    _move("down", "j,down", "j ↓", "Down", "Next row or line", "move(1)"),
    _move("up", "k,up", "k ↑", "Up", "Previous row or line", "move(-1)"),
    _move("page_down", "pagedown", "pgdn", "Page down", "A page on", "page(1)"),
    _move("page_up", "pageup", "pgup", "Page up", "A page back", "page(-1)"),
    _move("first", "g,home,f", "g f", "First", "First row or line; a list follows what comes in at the top", "first"),
    _move("last", "G,end", "G", "Last", "Last row or line", "last"),
)

_LISTS: Final = (
    _look("list.open", "enter", "⏎", "Open", "Details of a worker or task; the tasks of a queue or failure", "open",
          hint=10),
    _look("list.sort_on", "greater_than_sign", ">", "Sort", "Sort by the next column", "sort(1)"),
    _look("list.sort_back", "less_than_sign", "<", "Sort back", "Sort by the previous column", "sort(-1)"),
    _look("list.invert", "I", "I", "Invert", "Turn the order round", "invert"),
    _look("list.mark", "space", "space", "Mark", "Mark the row, for doing something with several", "mark"),
    _look("list.mark_all", "asterisk", "*", "Mark all", "Mark all rows in view, as filtered", "mark_all"),
    _look("list.everything", "percent_sign", "%", "Everything", "Mark all tasks that pass the filter, also those the"
          " list has no room for; they are counted before anything is done", "everything"),
    _look("list.clear_marks", "ctrl+backslash", "^\\", "Unmark", "Clear all marks", "clear_marks"),
    _look("text.left", "h,left", "h ←", "Left", "Move to the left", "sideways(-8)", listed=False),
    _look("text.right", "l,right", "l →", "Right", "Move to the right", "sideways(8)", listed=False),
    _look("tabs.left", "h,left,left_square_bracket", "h ←", "Left", "The state before", "tab(-1)", listed=False),
    _look("tabs.right", "l,right,right_square_bracket", "l →", "Right", "The next state", "tab(1)", listed=False),
    _look("page.next", "n", "n", "Next page", "The next page of the tasks of a queue", "turn(1)",
          listed=False),
    _look("page.back", "p", "p", "Page back", "The page before", "turn(-1)", listed=False),
)  # fmt: skip

_DEEDS: Final = (
    *_pauses("queue", "Hand out nothing more of this queue, stored, so that it holds for workers that start later"),
    _deed("queue.replay", "M", "M", "Replay dead", "All dead letters of this queue get a new life, at attempt 0", 2),
    _deed("queue.discard", "D", "D", "Discard dead", "Remove all dead letters of this queue for good", 2),
    _deed("queue.purge", "ctrl+d", "^D", "Purge", "Remove all that waits in this queue; it becomes revoked. What runs"
          " goes on", 2),
    *_pauses("worker", "Hand this worker no more tasks"),
    _deed("worker.drain", "D", "D", "Drain", "Take no more work but stay and answer, or take work again", 0,
          also=("undrain",)),
    _deed("worker.stop", "S", "S", "Stop", "Warm stop: takes nothing more, finishes what runs, leaves", 1, hint=13),
    _deed("worker.soft", "O", "O", "Stop soft", "Soft stop: handlers are asked to stop; what does not is handed back"
          " and runs elsewhere again", 2),
    _deed("worker.kill", "ctrl+s", "^S", "Stop hard", "Hard stop: what runs is handed back now and runs elsewhere"
          " again", 2),
    _look("worker.stack", "t", "t", "Stack", "Ask the worker where its threads and tasks are in the code", "", hint=14),
    _deed("task.revoke", "K", "K", "Revoke", "It never starts (again); where it runs, it is asked to stop", 1, hint=12),
    _deed("task.terminate", "ctrl+k", "^K", "Terminate", "Revoke, and where it runs, make it stop", 2),
    _deed("task.retry", "R", "R", "Retry", "A dead letter gets a new life; a scheduled or retrying task runs now", 1,
          hint=13, also=("replay",)),
    _deed("task.discard", "D", "D", "Discard", "Remove this dead letter for good", 2),
    *_pauses("task", "Hand out no more tasks of this name, on any queue", 0),
    *_pauses("failure", "Hand out no more tasks of this name, on any queue"),
)  # fmt: skip

_COMMANDS: Final = (
    _look("command.queue", "", ":queue NAME", "Queue", "Open this queue", "", takes="queue", needs=True),
    _look("command.worker", "", ":worker NAME", "Worker", "Open this worker", "", takes="worker", needs=True),
    _look("command.task", "", ":task ID", "Task", "Open this task, also one that no list shows", "", takes="task",
          needs=True),
    _look("command.theme", "", ":theme NAME", "Colours", "Change the colours", "", takes="theme", needs=True),
)  # fmt: skip

ACTIONS: Final = (*_EVERYWHERE, *_MOVING, *_LISTS, *_DEEDS, *_COMMANDS)
BY_ID: Final = {action.id: action for action in ACTIONS}
SCOPES: Final[tuple[tuple[Scope, str], ...]] = (
    ("queue", "On a queue"),
    ("worker", "On a worker"),
    ("task", "On a task"),
    ("failure", "On a failure"),
    ("list", "In a list"),
    ("move", "In a list or a text"),
    ("tabs", "Where tasks stand by state"),
    ("page", "In one queue"),
    ("text", "In a text"),
    ("app", "Everywhere"),
    ("command", "By name, behind a colon"),
)
"""In the order of the help; what the panel is about is moved to the top."""


def deeds(kind: str) -> list[Action]:
    """Return what can be done with a row of this kind."""
    return [action for action in ACTIONS if action.scope == kind and kind in ROWS]


def deed_keys() -> list[str]:
    """Return the keys that act on the row under the cursor."""
    return sorted({key for action in ACTIONS if action.scope in ROWS for key in action.keys})


def find(kind: str, key: str) -> Action | None:
    """Return what this key does with a row of this kind."""
    return next((action for action in deeds(kind) if key in action.keys), None)


def hints(kinds: Collection[str], *, writes: bool) -> list[tuple[Action, bool]]:
    """Return the hint line for a panel of these kinds: actions in order, and whether each works now."""
    scopes = {"app", *kinds}
    shown = sorted((action for action in ACTIONS if action.hint and action.scope in scopes), key=lambda each: each.hint)
    return [(action, writes or not action.changes) for action in shown]
