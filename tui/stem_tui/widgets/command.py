"""The command line: one line to type, what could come next above it, and what was typed before. Knows no broker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Final

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input

from stem.text import clean
from stem_tui import prompt
from stem_tui.columns import Column, View
from stem_tui.prompt import Candidate, Known, Order, PromptError
from stem_tui.theme import Cell, Look
from stem_tui.widgets.grid import Grid
from stem_tui.widgets.line import Line

HISTORY: Final = 100
_ROWS: Final = 8
CANDIDATES: Final[View[Candidate]] = View(
    kind="candidate",
    follows=True,
    title="COMMANDS",
    key=lambda row: row.line,
    columns=(
        Column(key="line", title="", width=22, grow=1, cell=lambda r, _: Cell(f":{r.line}", "strong")),
        Column(key="help", title="", width=20, grow=3, cell=lambda r, _: Cell(r.help, "dim")),
    ),
)


class CommandLine(ModalScreen[Order | None]):
    """Type where to go or what to do. Tab completes; up and down bring back what was typed before.

    Args:
        history: the lines of this run, oldest first; the new one is added to it.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", show=False),
        Binding("tab", "complete", show=False, priority=True),
        Binding("up", "recall(-1)", show=False, priority=True),
        Binding("down", "recall(1)", show=False, priority=True),
        Binding("ctrl+n", "choose(1)", show=False, priority=True),
        Binding("ctrl+p", "choose(-1)", show=False, priority=True),
    ]
    AUTO_FOCUS = "#command-line"

    def __init__(self, look: Look, known: Known, history: list[str]) -> None:
        super().__init__()
        self.look = look
        self._known = known
        self._history = history
        self._place = len(history)
        self._found: Sequence[Candidate] = ()
        self._chosen = ""

    def compose(self) -> ComposeResult:
        with Vertical(id="command-box"):
            yield Grid(CANDIDATES, self.look, id="candidates")
            yield Line(self.look, id="command-word")
            yield Input(id="command-line", compact=True, select_on_focus=False)

    def on_mount(self) -> None:
        grid = self.query_one(Grid)
        grid.can_focus = False
        grid.styles.height = _ROWS + 2
        self.query_one(Input).cursor_blink = False
        self.call_after_refresh(self._list)

    def _list(self) -> None:
        line = self.query_one(Input).value
        self._found = prompt.candidates(line, self._known)
        self.query_one(Grid).show(self._found, 0, count=str(len(self._found)), empty=["Nothing begins like this."])
        self._say("")

    def _say(self, wrong: str) -> None:
        keys = [Cell(" tab", "key"), Cell(" complete  ", "dim"), Cell("↑↓", "key"), Cell(" typed before  ", "dim")]
        keys += [Cell("esc", "key"), Cell(" leave", "dim")]
        self.query_one("#command-word", Line).show([Cell(f" ✗ {wrong}", "warn")] if wrong else keys)
        self.query_one(Input).set_class(bool(wrong), "-bad")

    def _set(self, text: str) -> None:
        line = self.query_one(Input)
        line.value = text
        line.cursor_position = len(text)

    def action_leave(self) -> None:
        self.dismiss(None)

    def action_complete(self) -> None:
        self._set(prompt.completed(self.query_one(Input).value, self._found))

    def action_recall(self, step: int) -> None:
        self._place = max(0, min(len(self._history), self._place + step))
        self._set(self._history[self._place] if self._place < len(self._history) else "")

    def action_choose(self, step: int) -> None:
        grid = self.query_one(Grid)
        grid.action_move(step)
        if grid.row is not None:
            self._chosen = grid.row.line
            self._set(grid.row.line)

    @on(Grid.Opened)
    def _opened(self, event: Grid.Opened) -> None:
        event.stop()
        self._set(event.row.line)

    @on(Grid.Changed)
    def _moved(self, event: Grid.Changed) -> None:
        event.stop()

    @on(Input.Changed)
    def _typed(self, event: Input.Changed) -> None:
        event.stop()
        if event.value != self._chosen:  # else the list that it was chosen from stays
            self._list()

    @on(Input.Submitted)
    def _entered(self, event: Input.Submitted) -> None:
        event.stop()
        line = event.value.strip()
        try:
            order = prompt.parse(line, self._known)
        except PromptError as error:
            self._say(clean(error))
            return
        if line and line not in self._history[-1:]:
            self._history.append(line)
            del self._history[:-HISTORY]
        self.dismiss(order)

    def on_click(self, event: events.Click) -> None:
        """Outside of the box: leave."""
        if event.widget is self:
            self.dismiss(None)
