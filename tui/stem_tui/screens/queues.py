"""All queues, and one of them: how it flowed in the last hour, who works on it, and its tasks by state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Final

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal

from stem.contracts import ListState
from stem.observe.rows import QueueLine
from stem_tui import arrange, chrome, flow, select, tasks
from stem_tui.reader import PAGE, PageAnswer
from stem_tui.reckon import Everything
from stem_tui.screens.base import LiveScreen
from stem_tui.session import Session
from stem_tui.theme import Cell
from stem_tui.widgets.grid import Grid
from stem_tui.widgets.keys import bindings
from stem_tui.widgets.line import Line
from stem_tui.widgets.pane import Facts
from stem_tui.work import work

STATES: Final[tuple[ListState, ...]] = (
    "running", "queued", "scheduled", "retrying", "held", "dead", "succeeded", "failed", "revoked", "expired",
)  # fmt: skip
_ASK_S: Final = 1.0
_GIVE_UP_S: Final = 5.0


class _QueueHead(LiveScreen):
    """A screen that has, over or under its list, what the last hour says of one queue."""

    def head(self) -> ComposeResult:
        with Horizontal(id="queue-head"):
            yield Facts(self.session.look, id="queue-facts")
            yield Grid(flow.NAMES, self.session.look, id="queue-names")

    def fill_head(self, name: str, line: QueueLine | None, now_ms: int, height: int) -> None:
        """Show it in so many lines; none hide it."""
        state, wide = self.session.state, self.size.width >= arrange.WIDE
        head, names = self.query_one("#queue-head"), self.query_one("#queue-names", Grid)
        head.styles.height, head.display, names.display = height, height > 0, wide and height > 0
        facts = self.query_one("#queue-facts", Facts)
        width = self.size.width // 2 if wide else self.size.width
        lines = self.frozen.once(
            ("facts", name), lambda: flow.queue_lines(state, line, name, now_ms, width=width, height=height)
        )
        facts.show(lines[:height], stale=self.session.stale)
        if wide and height > 0:
            key = name if line is None else line.key
            self.panel(
                names,
                lambda: state.minutes.by_task(queue=key),
                now_ms,
                part=key,
                empty="name",
                sort=False,
            )


class QueuesScreen(_QueueHead):
    """Every queue, and more of the one under the cursor."""

    def body(self) -> ComposeResult:
        yield Grid(select.QUEUES, self.session.look, id="all-queues")
        yield from self.head()

    def fill(self, now_ms: int) -> None:
        state, grid = self.session.state, self.query_one("#all-queues", Grid)
        self.panel(grid, lambda: select.queue_rows(state), now_ms, note=self._queues_note)
        line = grid.row
        room = self.query_one("#body").size.height
        height = arrange.below(room, len(grid.rows), flow.HEAD) if isinstance(line, QueueLine) else 0
        self.fill_head(line.name if isinstance(line, QueueLine) else "", line, now_ms, height)

    def _queues_note(self, _: object) -> list[Cell]:
        return self.frozen.once("note", lambda: select.queue_note(self.session.state))


class QueueScreen(_QueueHead):
    """One queue; its tasks come from the broker, a page at a time, in the order they will run."""

    BINDINGS: ClassVar[list[BindingType]] = bindings("tabs", "page")
    AUTO_FOCUS = "#queue-tasks"

    def __init__(self, session: Session, line: QueueLine) -> None:
        super().__init__(session)
        self.key = line.key
        self.shown_name = line.name
        self.tab = _first(line)
        self.answer: PageAnswer | None = None
        self._cursors: list[str | None] = [None]
        self._asked_s = -_GIVE_UP_S
        self._asking: tuple[ListState, str | None] | None = None

    def body(self) -> ComposeResult:
        yield from self.head()
        yield Line(self.session.look, id="tabs")
        yield Grid(tasks.OF_QUEUE[self.tab], self.session.look, id="queue-tasks")

    @property
    def line(self) -> QueueLine | None:
        return self.session.state.queues.get(self.key)

    def subject(self) -> tuple[str, Any] | None:
        return None if self.line is None else ("queue", self.line)

    def states(self, grid: Grid) -> Sequence[ListState]:
        return (self.tab,)

    def everything(self, grid: Grid) -> Everything | None:
        which = super().everything(grid)
        return None if which is None else replace(which, queue=self.key)

    # --------------------------------------------------------------------------------------------------------- drawing

    def fill(self, now_ms: int) -> None:
        self._ask()
        room = self.query_one("#body").size.height
        height = arrange.above(room, flow.HEAD_LOW, flow.HEAD)
        self.fill_head(self.shown_name, self.line, now_ms, height)
        here = STATES.index(self.tab)
        counts = self.frozen.once("counts", lambda: [self._count(state) for state in STATES])
        self.query_one("#tabs", Line).show(*chrome.tabs(STATES, counts, here, self.size.width))
        grid, answer = self.query_one("#queue-tasks", Grid), self._answered
        self.panel(
            grid,
            lambda: None if answer is None else list(answer.rows),
            now_ms,
            part=(self.tab, self._cursors[-1]),
            view=tasks.OF_QUEUE[self.tab],
            count=self._place,
            note=self._note,
            empty="asking" if answer is None else "task",
            problem="" if answer is None else answer.problem,
            sort=False,
            whole=False,
        )

    @property
    def _answered(self) -> PageAnswer | None:
        """The answer to what is asked now; another one is of the tab or page before."""
        answer = self.answer
        if answer is None or (answer.state, answer.cursor) != (self.tab, self._cursors[-1]):
            return None
        return answer

    def _count(self, state: str) -> str:
        total = tasks.tab_count(self.session.state, state, self.key)
        if total is not None:
            return f"{total:,}"
        ended = self.session.state.minutes.flow(queue=self.key).count(state)
        return f"{ended:,}/h" if ended else ""

    def _place(self, listed: int) -> str:
        """Say which of how many are listed."""
        if not listed:
            return "0"
        first = (len(self._cursors) - 1) * PAGE + 1
        total = self.frozen.once(("total", self.tab), lambda: tasks.tab_count(self.session.state, self.tab, self.key))
        ends = "" if total is None else f" of {max(total, first + listed - 1):,}"
        return f"{first:,}–{first + listed - 1:,}{ends}"

    def _note(self, rows: object) -> list[Cell]:
        answer, notes = self._answered, list[Cell]()
        if answer is None:
            return [Cell("asking …", "dim")]
        if len(self._cursors) > 1:
            notes.append(Cell("p back", "key"))
        if answer.next is not None:
            notes.append(Cell("n next page", "key"))
        return notes

    # ---------------------------------------------------------------------------------------------------------- asking

    def _ask(self) -> None:
        """Ask for the page in view, once a second while the broker is there; what is still being answered is left."""
        now_s, wanted = self.session.clock.monotonic(), (self.tab, self._cursors[-1])
        if now_s - self._asked_s < (_ASK_S if self._asking != wanted else _GIVE_UP_S):
            return
        if self.session.phase in ("LIVE", "STALE") and not self.keeps(self._answered):
            self._asked_s, self._asking = now_s, wanted
            self.run_worker(work(self._fetch, *wanted), group="page", exclusive=True, exit_on_error=False)

    async def _fetch(self, tab: ListState, cursor: str | None) -> None:
        answer, before = await self.dashboard.reader.page(self.key, tab, cursor), self.answer
        if answer.problem and before is not None and (before.state, before.cursor) == (tab, cursor):
            # One question that failed takes no row from under a finger: the last ones stay, and say that they are old.
            answer = replace(before, problem=answer.problem)
        self._asking = None
        if not self.keeps(self._answered):
            self.answer = answer
            self.answered()

    def _ask_now(self) -> None:
        self._asked_s = -_GIVE_UP_S
        self.draw_anew()

    # ------------------------------------------------------------------------------------------------------------ keys

    def action_tab(self, step: int) -> None:
        self.tab = STATES[(STATES.index(self.tab) + step) % len(STATES)]
        self._cursors = [None]
        self._ask_now()

    def action_turn(self, step: int) -> None:
        answer = self._answered
        if step < 0 and len(self._cursors) > 1:
            self._cursors.pop()
        elif step > 0 and answer is not None and answer.next is not None:
            self._cursors.append(answer.next)
        else:
            return
        self.query_one("#queue-tasks", Grid).action_first()
        self._ask_now()


def _first(line: QueueLine) -> ListState:
    """Return the state to begin with: where its tasks are."""
    counts: tuple[tuple[ListState, int], ...] = (
        ("queued", line.ready), ("running", line.in_flight), ("retrying", line.retrying), ("held", line.held),
        ("scheduled", line.delayed), ("dead", line.dead),
    )  # fmt: skip
    return next((state for state, count in counts if count), "succeeded")
