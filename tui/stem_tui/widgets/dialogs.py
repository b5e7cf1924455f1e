"""What stands over a screen: the question before a change, the menu of a row, the answers of workers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Final

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen
from textual.widgets import Button, Input

from stem_tui.actions import Action
from stem_tui.columns import Column, View
from stem_tui.theme import Cell, Look
from stem_tui.widgets.grid import Grid
from stem_tui.widgets.line import Line
from stem_tui.widgets.pane import CellLine, Pane


class Confirm(ModalScreen[bool]):
    """Ask before a change. The answer at hand is no; with `word`, it has to be typed for a yes."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "answer(False)", show=False),
        Binding("n", "answer(False)", show=False),
        Binding("y", "yes", show=False),
        Binding("left,h", "app.focus_previous", show=False),
        Binding("right,l", "app.focus_next", show=False),
    ]
    AUTO_FOCUS = "#cancel"

    def __init__(self, look: Look, title: str, lines: Sequence[CellLine], *, yes: str, word: str = "") -> None:
        super().__init__()
        self.look = look
        self._title = title
        self._lines = lines
        self._yes = yes
        self._word = word

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Line(self.look, id="dialog-title")
            yield Pane(self.look, id="dialog-text")
            if self._word:
                yield Line(self.look, id="dialog-ask")
                yield Input(id="dialog-word", compact=True)
            with Horizontal(id="dialog-buttons"):
                yield Button("Cancel (n)", id="cancel", compact=True)
                yield Button(self._yes, id="yes", compact=True, disabled=bool(self._word))

    def on_mount(self) -> None:
        self.query_one("#dialog-title", Line).show([Cell(f" {self._title}", "title")])
        text = self.query_one("#dialog-text", Pane)
        text.can_focus = False
        text.styles.height = min(12, len(self._lines))
        text.show(self._lines)
        if self._word:
            ask = [Cell(" type ", "dim"), Cell(self._word, "strong"), Cell(" to go on", "dim")]
            self.query_one("#dialog-ask", Line).show(ask)
            self.query_one("#dialog-word", Input).cursor_blink = False

    def action_answer(self, yes: bool) -> None:
        self.dismiss(yes)

    def action_yes(self) -> None:
        if not self._word:
            self.dismiss(True)

    @on(Input.Changed, "#dialog-word")
    def _typed(self, event: Input.Changed) -> None:
        self.query_one("#yes", Button).disabled = event.value.strip() != self._word

    @on(Input.Submitted, "#dialog-word")
    def _entered(self, event: Input.Submitted) -> None:
        if event.value.strip() == self._word:
            self.dismiss(True)

    @on(Button.Pressed)
    def _pressed(self, event: Button.Pressed) -> None:
        self.dismiss(event.button.id == "yes")


class Answered(ModalScreen[None]):
    """Who answered a command, and how."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,a", "app.pop_screen", show=False)]
    AUTO_FOCUS = "Pane"

    def __init__(self, look: Look, head: Sequence[Cell], lines: Sequence[CellLine]) -> None:
        super().__init__()
        self.look = look
        self._head = head
        self._lines = lines

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Line(self.look, id="dialog-title")
            yield Pane(self.look, id="dialog-text")
            yield Line(self.look, id="dialog-ask")

    def on_mount(self) -> None:
        self.query_one("#dialog-title", Line).show([Cell(" "), *self._head])
        text = self.query_one("#dialog-text", Pane)
        text.styles.height = max(1, min(16, len(self._lines)))
        text.show(self._lines)
        self.query_one("#dialog-ask", Line).show([Cell(" esc", "key"), Cell(" close", "dim")])

    def key_enter(self) -> None:
        self.app.pop_screen()


MENU: Final[View[tuple[Action, bool]]] = View(
    kind="action",
    title="ACTIONS",
    key=lambda row: row[0].id,
    columns=(
        Column(key="key", title="KEY", width=5, cell=lambda r, _: Cell(r[0].shown, "key" if r[1] else "faint")),
        Column(key="label", title="", width=13, cell=lambda r, _: Cell(r[0].label, "strong" if r[1] else "faint")),
        Column(key="help", title="", width=20, grow=1, cell=lambda r, _: Cell(r[0].help, "dim" if r[1] else "faint")),
    ),
)


class Menu(ModalScreen[str]):
    """All that can be done with a row; the answer is the action's id, empty for none."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,x", "leave", show=False)]
    AUTO_FOCUS = "Grid"

    def __init__(self, look: Look, title: str, actions: Sequence[tuple[Action, bool]]) -> None:
        super().__init__()
        self.look = look
        self._title = title
        self._actions = actions

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Grid(MENU, self.look, id="menu")

    def on_mount(self) -> None:
        grid = self.query_one(Grid)
        grid.styles.height = len(self._actions) + 2
        self.call_after_refresh(self._fill)

    def _fill(self) -> None:
        self.query_one(Grid).show(self._actions, 0, title=self._title, empty=["Nothing can be done with this."])

    def action_leave(self) -> None:
        self.dismiss("")

    @on(Grid.Opened)
    def _opened(self, event: Grid.Opened) -> None:
        event.stop()
        row: tuple[Action, bool] = event.row
        self.dismiss(row[0].id if row[1] else "")

    def on_key(self, event: Any) -> None:
        """Take an action's own key as its choice."""
        for action, works in self._actions:
            if event.key in action.keys and works:
                event.stop()
                self.dismiss(action.id)
                return
