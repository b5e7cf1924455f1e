"""What all screens have in common: header, body, filter, notice, hint; and how a panel is filled. Knows no broker."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, cast

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Input

from stem.contracts import ListState
from stem_tui import chrome
from stem_tui.columns import Sorting, View, ordered
from stem_tui.filter import FilterError, Test, parse
from stem_tui.frozen import Frozen
from stem_tui.reckon import Everything
from stem_tui.session import Session
from stem_tui.theme import Cell
from stem_tui.widgets.grid import Grid
from stem_tui.widgets.keys import row_bindings
from stem_tui.widgets.line import Line

if TYPE_CHECKING:
    from stem_tui.app import StemTUI


class FilterInput(Input):
    """The filter line. Escape clears and leaves it."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "screen.clear_filter", "clear", show=False)]


class LiveScreen(Screen[None]):
    """A screen that draws the session's state when told to. It keeps no data but what is chosen and typed."""

    BINDINGS: ClassVar[list[BindingType]] = row_bindings()
    AUTO_FOCUS = "Grid, Pane"

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session
        self.filters: dict[str, str] = {}
        self._tests: dict[tuple[str, str], Test | None] = {}
        self._filtering: Grid | None = None
        self._in_filter = False
        self._filled_at: int | None = None
        self.frozen = Frozen()
        self._focused_before: Widget | None = None

    # ------------------------------------------------------------------------------------------------------- composing

    def compose(self) -> ComposeResult:
        look = self.session.look
        yield Line(look, id="header")
        with Vertical(id="body"):
            yield from self.body()
        yield Line(look, id="notice")
        filter_line = FilterInput(id="filter", placeholder="filter", select_on_focus=False, compact=True)
        filter_line.cursor_blink = False
        yield filter_line
        yield Line(look, id="hint")
        yield Line(look, id="small")

    def body(self) -> ComposeResult:
        """Yield the panels of this screen."""
        raise NotImplementedError

    def fill(self, now_ms: int) -> None:
        """Show the state in the panels."""
        raise NotImplementedError

    @property
    def dashboard(self) -> StemTUI:
        return cast("StemTUI", self.app)

    def subject(self) -> tuple[str, Any] | None:
        """Return kind and row that this whole screen is about, if it is about one."""
        return None

    def states(self, grid: Grid) -> Sequence[ListState]:
        """Return the states of the tasks that a list is a part of; none where it is all there is."""
        return ()

    def everything(self, grid: Grid) -> Everything | None:
        """Return what is meant by all that pass the filter of a list, also what it does not hold."""
        states = self.states(grid)
        if not states or grid.view.kind != "task":
            return None
        test = self._test(grid.view, self.filters.get(grid.id or "", ""))
        return Everything(states, test, self.session.now_ms)

    def step_back(self) -> bool:
        """Undo one step within this screen (a filter, a mark); False when there is none."""
        for grid in self.query(Grid):
            if grid.has_focus and (grid.marked or grid.everything):
                grid.action_clear_marks()
                return True
            if grid.has_focus and self.filters.get(grid.id or ""):
                self._put(grid, "")
                self.draw_anew()
                return True
        return False

    # --------------------------------------------------------------------------------------------------------- drawing

    def draw(self) -> None:
        """Show header, notice and hint, and the panels unless the picture is frozen. Raises nothing."""
        if not self.is_mounted or self.has_class("-small") or not self.app.is_running:
            return  # at the program's end the panels go before the screen does
        if self not in self.app.screen_stack:
            return  # it was closed, or is out of view: what it asked for came too late
        try:
            self.draw_chrome()
            frozen_ms = self.session.frozen_ms
            if frozen_ms is None or frozen_ms != self._filled_at:
                self._filled_at = frozen_ms
                self.frozen.at(frozen_ms)
                self.fill(self.session.now_ms)
        except Exception as error:
            # Here, not where it is called: keys and clicks draw too, and what they raise ends the program.
            self.dashboard.remember(error)

    def keeps(self, answer: object) -> bool:
        """Say whether this answer stays: in a frozen picture nothing that is in view is asked for again."""
        return self.session.frozen_ms is not None and answer is not None

    def answered(self, name: Hashable = None) -> None:
        """Have shown, also in a frozen picture, what this screen has asked for itself and has now.

        Args:
            name: what was shown frozen in its place until now.
        """
        self.frozen.forget(name)
        self._filled_at = None
        self.session.state.version += 1

    def draw_anew(self) -> None:
        """Draw what somebody has asked to see otherwise, also in a frozen picture: that out of what it had."""
        self._filled_at = None
        self.draw()

    def draw_chrome(self) -> None:
        width = self.size.width
        self.query_one("#header", Line).show(*chrome.header(self.session, width))
        self.query_one("#notice", Line).show(*chrome.notice(self.session))
        kinds = {"list", self.focused.view.kind} if isinstance(self.focused, Grid) else {"text"}
        self.query_one("#header").set_class(self.session.production, "-production")
        subject = self.subject()
        if subject is not None:
            kinds.add(subject[0])
        filtering = self._filtering is not None
        self.query_one("#hint", Line).show(*chrome.hint(self.session, kinds, width, filtering=filtering))

    def panel(
        self,
        grid: Grid,
        rows: Callable[[], Sequence[Any] | None],
        now_ms: int,
        *,
        part: Hashable = "",
        view: View[Any] | None = None,
        count: Callable[[int], str] | None = None,
        note: Callable[[Sequence[Any]], Sequence[Cell]] | None = None,
        empty: str = "",
        problem: str = "",
        title: str = "",
        sort: bool = True,
        whole: bool = True,
    ) -> None:
        """Fill one grid: filter, order, show. What goes wrong in one panel is shown there, and harms no other.

        Args:
            rows: None while nobody knows.
            part: which of several lists this grid shows now.
            problem: why the rows are not of now, or there are none.
            sort: they do not come in the view's own order yet.
            whole: these are all there are, not the first ones or those that were seen.
        """
        view = view or grid.view
        text = self.filters.get(grid.id or "", "")
        try:
            found = self.frozen.rows((grid.id, view.title, part), rows)
            words = [f"✖ {problem}"] if problem else chrome.empty(self.session, empty or view.kind, filtered=bool(text))
            total, test = len(found), self._test(view, text)
            if test is not None:
                found = [row for row in found if test(row, now_ms)]
            sorting = grid.sorting if grid.view is view else Sorting()
            if sort or sorting.column:
                found = ordered(view, found, sorting)
            elif sorting.down:
                found = list(found)[::-1]
            notes = list(note(found)) if note is not None else []
            if problem:
                notes = [Cell(f"✖ {problem}", "bad")]
            elif text:
                notes.insert(0, Cell(f"/{text}  {len(found):,} of {total:,}{'' if whole else ' listed'}", "accent"))
            marked = sum(view.key(row) in grid.marked for row in found) if grid.marked and grid.view is view else 0
            if grid.everything and self.everything(grid) is not None:
                # Alone: where there is no room it would be the first to go, and it says what a deed would be done to.
                notes = [Cell("● everything marked", "warn")]
            elif marked:
                notes.insert(0, Cell(f"● {marked:,} marked", "accent"))
            grid.show(
                found,
                now_ms,
                view=view,
                title=title,
                count=f"{total:,}" if count is None else count(total),
                note=notes,
                empty=words,
                stale=self.session.stale or bool(problem),
            )
        except Exception as error:
            # The border of the dashboard: one panel that cannot be drawn must not take the rest down.
            self.dashboard.remember(error)
            words = [f"This panel cannot be drawn: {type(error).__name__}.", "The rest goes on; please report it."]
            grid.show((), now_ms, view=view, empty=words)

    def _test(self, view: View[Any], text: str) -> Test | None:
        """Return the compiled filter; a bad one never gets this far, it is refused while it is typed."""
        if not text:
            return None
        key = (view.title, text)
        if key not in self._tests:
            if len(self._tests) > 50:
                self._tests.clear()
            try:
                self._tests[key] = parse(text, view.fields)
            except FilterError:
                self._tests[key] = _nothing
        return self._tests[key]

    def on_resize(self, event: events.Resize) -> None:
        small = event.size.width < chrome.MIN_WIDTH or event.size.height < chrome.MIN_HEIGHT
        if small and not self.has_class("-small"):
            # What is not in view loses the focus, and nobody gives it back.
            self._focused_before = self.focused
        elif not small and self._focused_before is not None:
            self.call_after_refresh(self.set_focus, self._focused_before)
            self._focused_before = None
        self.set_class(small, "-small")
        words = f" terminal too small ({event.size.width}x{event.size.height}, need {chrome.MIN_WIDTH}x"
        self.query_one("#small", Line).show([Cell(f"{words}{chrome.MIN_HEIGHT}) · q quits", "warn")])
        self.draw_anew()

    def on_screen_resume(self) -> None:
        self.draw_anew()

    @on(Grid.Changed)
    def _redraw(self, event: Grid.Changed) -> None:
        event.stop()
        self.draw_anew()

    @on(Grid.Fixed)
    def _fixed(self, event: Grid.Fixed) -> None:
        event.stop()
        self.session.say(Cell(f"! {event.grid.view.title} have one order: the newest first", "warn"), seconds=4)
        self.draw_chrome()

    @on(Grid.Moved)
    def _moved(self, event: Grid.Moved) -> None:
        # Not the panels: what they show has not changed, and a key held down would draw them all thirty times a second.
        event.stop()
        self.draw_chrome()

    def on_descendant_focus(self, event: events.DescendantFocus) -> None:
        self._in_filter = self._in_filter or isinstance(event.widget, FilterInput)
        if self.is_mounted and not self.has_class("-small"):
            self.draw_chrome()

    # ------------------------------------------------------------------------------------------------------- filtering

    def action_filter(self) -> None:
        grid = self.focused if isinstance(self.focused, Grid) else next(iter(self.query(Grid)), None)
        if grid is None or not grid.view.fields:
            return
        self._filtering, self._in_filter = grid, False
        line = self.query_one(FilterInput)
        line.add_class("-open")
        line.remove_class("-bad")
        line.value = self.filters.get(grid.id or "", "")
        line.cursor_position = len(line.value)
        line.focus()

    @on(Input.Changed, "#filter")
    def _typed(self, event: Input.Changed) -> None:
        event.stop()
        grid = self._filtering
        if grid is None:
            return
        try:
            parse(event.value, grid.view.fields)
        except FilterError as error:
            # The last good filter stays in force while a bad one is being typed.
            event.input.add_class("-bad")
            self.session.say(Cell(f"✗ {error}", "warn"), seconds=4)
        else:
            if event.input.has_class("-bad"):
                event.input.remove_class("-bad")
                self.session.notice = None  # what was wrong with it before it was typed to its end
            self._put(grid, event.value.strip())
        self.draw_anew()

    @on(Input.Submitted, "#filter")
    def _entered(self, event: Input.Submitted) -> None:
        event.stop()
        self._leave_filter()

    def on_descendant_blur(self, event: events.DescendantBlur) -> None:
        """Close the filter line when another panel is gone to by tab or a click; what was typed stays in force."""
        gone = self.app.app_focus and not self.has_class("-small") and not isinstance(self.focused, FilterInput)
        if isinstance(event.widget, FilterInput) and self._in_filter and gone:
            self._close_filter()
            self.draw_anew()

    def action_clear_filter(self) -> None:
        if self._filtering is not None:
            self._put(self._filtering, "")
        self._leave_filter()

    def _close_filter(self) -> None:
        self._filtering, self._in_filter = None, False
        self.query_one(FilterInput).remove_class("-open")

    def _leave_filter(self) -> None:
        grid = self._filtering
        self._close_filter()
        if grid is not None:
            grid.focus()
        self.draw_anew()

    def set_filter(self, grid: Grid, text: str) -> None:
        """Filter a panel from elsewhere (say, by the failure that was opened)."""
        self._put(grid, text)
        self.draw_anew()

    def _put(self, grid: Grid, text: str) -> None:
        if text != self.filters.get(grid.id or "", ""):
            # Whoever marked everything meant what passed the filter then.
            grid.everything = False
        self.filters[grid.id or ""] = text


def _nothing(row: object, now_ms: int) -> bool:
    """Pass no row: what does not parse means nothing, and never everything."""
    return False
