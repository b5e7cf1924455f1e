"""What stands over a screen: the question before a change, the menu of a row, the answers, a line to type."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Final

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen
from textual.widgets import Button, Input

from stem_tui.actions import Action
from stem_tui.columns import Column, View
from stem_tui.plans import Question
from stem_tui.theme import Cell, Look
from stem_tui.widgets.grid import Grid
from stem_tui.widgets.line import Line
from stem_tui.widgets.pane import CellLine, Pane

_TEXT_LINES: Final = 16


class Confirm(ModalScreen[bool]):
    """Ask before a change. ⏎ alone means no; where there is a word, it has to be typed for a yes."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "answer(False)", show=False),
        Binding("n", "answer(False)", show=False),
        Binding("y", "yes", show=False),
        Binding("Y,ctrl+y", "copy_command", show=False),
        Binding("left", "app.focus_previous", show=False),
        Binding("right", "app.focus_next", show=False),
        Binding("up", "scroll_text(-1)", show=False),
        Binding("down", "scroll_text(1)", show=False),
        Binding("pageup", "page_text(-1)", show=False),
        Binding("pagedown", "page_text(1)", show=False),
    ]
    AUTO_FOCUS = "#cancel.at-hand"

    def __init__(self, look: Look, question: Question) -> None:
        super().__init__()
        self.look = look
        self.question = question

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Line(self.look, id="dialog-title")
            yield Pane(self.look, id="dialog-text")
            if self.question.word:
                yield Line(self.look, id="dialog-ask")
                yield Input(id="dialog-word", compact=True, select_on_focus=False)
            with Horizontal(id="dialog-buttons"):
                cancel = "Cancel (esc)" if self.question.word else "Cancel (n)"
                yield Button(cancel, id="cancel", compact=True, classes="" if self.question.word else "at-hand")
                yield Button(self.question.yes, id="yes", compact=True, disabled=bool(self.question.word))

    def on_mount(self) -> None:
        question = self.question
        text = self.query_one("#dialog-text", Pane)
        text.can_focus = False
        height = _height(self, question.lines, 11 if question.word else 8)
        text.styles.height = height
        text.show(question.lines)
        more = [Cell("↑↓", "key"), Cell(" more ", "dim")] if height < len(question.lines) else []
        self.query_one("#dialog-title", Line).show([Cell(f" {question.title}", "title")], more)
        if question.word:
            ask = [Cell(" type ", "dim"), Cell(question.word, "strong"), Cell(" and ⏎ to go on", "dim")]
            self.query_one("#dialog-ask", Line).show(ask)
            self.query_one("#dialog-word", Input).cursor_blink = False

    def on_key(self, event: events.Key) -> None:
        """Take what is typed as the word, wherever the focus is; then letters are letters, and answer nothing.

        Nothing has the focus at first: so all keys come here one after the other, and ⏎ overtakes none of them.
        """
        if not self.question.word:
            return
        line = self.query_one("#dialog-word", Input)
        if event.is_printable and event.character is not None:
            line.insert_text_at_cursor(event.character)
        elif event.key == "backspace":
            line.action_delete_left()
        elif event.key == "enter" and self.focused is None:
            self._enter(line.value)
        else:
            return
        event.stop()
        event.prevent_default()

    def action_answer(self, yes: bool) -> None:
        self.dismiss(yes)

    def action_yes(self) -> None:
        self.dismiss(True)

    def action_scroll_text(self, step: int) -> None:
        self.query_one("#dialog-text", Pane).action_move(step)

    def action_page_text(self, step: int) -> None:
        self.query_one("#dialog-text", Pane).action_page(step)

    def action_copy_command(self) -> None:
        copy_command(self, self.question.command)

    @on(Input.Changed, "#dialog-word")
    def _typed(self, event: Input.Changed) -> None:
        self.query_one("#yes", Button).disabled = event.value.strip() != self.question.word

    @on(Input.Submitted, "#dialog-word")
    def _entered(self, event: Input.Submitted) -> None:
        self._enter(event.value)

    def _enter(self, value: str) -> None:
        word = value.strip()
        if word in ("", self.question.word):
            self.dismiss(bool(word))

    @on(Button.Pressed)
    def _pressed(self, event: Button.Pressed) -> None:
        self.dismiss(event.button.id == "yes")


def _height(screen: ModalScreen[Any], lines: Sequence[CellLine], rest: int) -> int:
    """Return how many of the lines there is room for, so that what stands below them stays in view."""
    return max(1, min(_TEXT_LINES, len(lines), screen.app.size.height - rest))


def copy_command(screen: ModalScreen[Any], command: str, *, uncopied: str = "no stemctl command does the same") -> None:
    """Copy a command, and say in the dialog's title that it was, or why there is none."""
    title = screen.query_one("#dialog-title", Line)
    if command:
        screen.app.copy_to_clipboard(command)
        title.show(title.left, [Cell("copied ", "ok")])
    else:
        title.show(title.left, [Cell(f"{uncopied} ", "warn")])


class Prompt(ModalScreen[str]):
    """Ask for one line; empty for none. What is wrong with it is said while it is typed.

    Args:
        check: raises ValueError, with words for a person, where the line will not do.
    """

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "leave", show=False)]
    AUTO_FOCUS = "#dialog-line"

    def __init__(self, look: Look, title: str, hint: str, check: Callable[[str], object], *, value: str = "") -> None:
        super().__init__()
        self.look = look
        self._title = title
        self._hint = hint
        self._check = check
        self._value = value

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Line(self.look, id="dialog-title")
            yield Input(self._value, id="dialog-line", compact=True, select_on_focus=False)
            yield Line(self.look, id="dialog-ask")

    def on_mount(self) -> None:
        self.query_one("#dialog-title", Line).show([Cell(f" {self._title}", "title")])
        self.query_one("#dialog-ask", Line).show([Cell(f" {self._hint}", "dim")])
        self.query_one(Input).cursor_blink = False

    def _wrong(self, text: str) -> str:
        try:
            self._check(text)
        except ValueError as error:
            return str(error)
        return ""

    def action_leave(self) -> None:
        self.dismiss("")

    @on(Input.Changed)
    def _typed(self, event: Input.Changed) -> None:
        wrong = self._wrong(event.value.strip()) if event.value.strip() else ""
        event.input.set_class(bool(wrong), "-bad")
        shown = Cell(f" ✗ {wrong}", "warn") if wrong else Cell(f" {self._hint}", "dim")
        self.query_one("#dialog-ask", Line).show([shown])

    @on(Input.Submitted)
    def _entered(self, event: Input.Submitted) -> None:
        text = event.value.strip()
        if text and not self._wrong(text):
            self.dismiss(text)


class Answered(ModalScreen[None]):
    """Who answered a command, and how."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,a,enter", "app.pop_screen", show=False),
        Binding("Y,ctrl+y", "copy_command", show=False),
    ]
    AUTO_FOCUS = "Pane"

    def __init__(self, look: Look, head: Sequence[Cell], lines: Sequence[CellLine], command: str = "") -> None:
        super().__init__()
        self.look = look
        self._head = head
        self._lines = lines
        self._command = command

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Line(self.look, id="dialog-title")
            yield Pane(self.look, id="dialog-text")
            yield Line(self.look, id="dialog-ask")

    def on_mount(self) -> None:
        self.query_one("#dialog-title", Line).show([Cell(" "), *self._head])
        text = self.query_one("#dialog-text", Pane)
        text.styles.height = _height(self, self._lines, 8)
        text.show(self._lines)
        keys = [Cell(" esc", "key"), Cell(" close", "dim")]
        if self._command:
            keys += [Cell("  Y", "key"), Cell(" copy the stemctl command", "dim")]
        self.query_one("#dialog-ask", Line).show(keys)

    def action_copy_command(self) -> None:
        copy_command(self, self._command)


Choice = tuple[Action, bool]
MENU: Final[View[Choice]] = View(
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
    """All that can be done with a row; the answer is the action's id, empty for none.

    Args:
        command: returns the stemctl command of one of them, empty for none.
        uncopied: what is said where there is none.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,x", "leave", show=False),
        Binding("Y,ctrl+y", "copy_command", show=False),
    ]
    AUTO_FOCUS = "Grid"

    def __init__(
        self, look: Look, title: str, actions: Sequence[Choice], command: Callable[[Action], str], *, uncopied: str
    ) -> None:
        super().__init__()
        self._uncopied = uncopied
        self.look = look
        self._title = title
        self._actions = actions
        self._command = command

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Grid(MENU, self.look, id="menu")
            yield Line(self.look, id="dialog-title")

    def on_mount(self) -> None:
        self.query_one(Grid).styles.height = len(self._actions) + 2
        self.query_one("#dialog-title", Line).show(
            [Cell(" ⏎", "key"), Cell(" do it", "dim"), Cell("  Y", "key"), Cell(" copy the stemctl command", "dim")]
        )
        self.call_after_refresh(self._fill)

    def _fill(self) -> None:
        self.query_one(Grid).show(self._actions, 0, title=self._title, empty=["Nothing can be done with this."])

    def action_leave(self) -> None:
        self.dismiss("")

    def action_copy_command(self) -> None:
        row: Choice | None = self.query_one(Grid).row
        copy_command(self, self._command(row[0]) if row is not None else "", uncopied=self._uncopied)

    @on(Grid.Opened)
    def _opened(self, event: Grid.Opened) -> None:
        event.stop()
        row: Choice = event.row
        self.dismiss(row[0].id if row[1] else "")

    def on_key(self, event: events.Key) -> None:
        """Take an action's own key as its choice."""
        for action, works in self._actions:
            if event.key in action.keys and works:
                event.stop()
                self.dismiss(action.id)
                return
