"""The dashboard: runs the feed, draws at a steady pace, and takes keys to what they do. Knows no adapter.

All I/O is in asyncio workers that never end the app; the screens only draw what the session holds.
"""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Sequence
from typing import Any, ClassVar, Final

from textual import on
from textual.app import App
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.theme import Theme

from stem.authority import ControlKeys
from stem.contracts import Broker
from stem.control.controller import Controller
from stem.control.why import why
from stem.errors import BrokerError, StemError
from stem.messages.envelope import Envelope
from stem.observe.rows import EventLine, QueueLine, TaskLine, WorkerLine
from stem.text import clean
from stem_tui import actions, deeds, details, figures, helptext
from stem_tui.actions import BY_ID, Action, find
from stem_tui.screens.base import LiveScreen
from stem_tui.screens.details import TaskScreen, TextScreen, WorkerScreen
from stem_tui.screens.lists import EventsScreen, TasksScreen, WorkersScreen
from stem_tui.screens.overview import OverviewScreen
from stem_tui.screens.queues import QueuesScreen
from stem_tui.session import UNDO_S, Session
from stem_tui.theme import PALETTES, Cell, Look
from stem_tui.widgets.dialogs import Answered, Confirm, Menu
from stem_tui.widgets.grid import Grid

TICK_S: Final = 0.05
SLOW_S: Final = 0.05
BLURRED_HZ: Final = 2.0
_CYCLE: Final = ("stem-dark", "stem-light", "stem-deut", "stem-contrast")


def _theme(name: str) -> Theme:
    tones = PALETTES[name]
    return Theme(
        name=name,
        primary=tones["accent"].split()[-1],
        foreground=tones["text"],
        background=tones["back"],
        surface=tones["raised"],
        panel=tones["rule"],
        warning=tones["warn"].split()[-1],
        error=tones["bad"].split()[-1],
        success=tones["ok"].split()[-1],
        dark=name != "stem-light",
    )


class StemTUI(App[int], inherit_bindings=False):
    """The whole dashboard over one broker."""

    TITLE = "stem-tui"
    ENABLE_COMMAND_PALETTE = False
    ALLOW_SELECT = False
    CSS_PATH = "stem.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("1", "mode('overview')", show=False),
        Binding("2", "mode('queues')", show=False),
        Binding("3", "mode('workers')", show=False),
        Binding("4", "mode('tasks')", show=False),
        Binding("5", "mode('events')", show=False),
        Binding("slash", "filter", show=False),
        Binding("z", "freeze", show=False),
        Binding("x", "menu", show=False),
        Binding("a", "answers", show=False),
        Binding("u", "undo", show=False),
        Binding("r", "reconnect", show=False),
        Binding("y", "copy_id", show=False),
        Binding("T", "next_theme", show=False),
        Binding("plus", "pace(1)", show=False),
        Binding("minus", "pace(-1)", show=False),
        Binding("question_mark,f1", "help", show=False),
        Binding("escape", "step_back(False)", show=False),
        Binding("q", "step_back(True)", show=False),
        Binding("ctrl+c,ctrl+q", "quit", show=False, priority=True),
    ]

    def __init__(
        self,
        session: Session,
        broker: Broker,
        *,
        actor: str = "",
        timeout_s: float = 5.0,
        keys: ControlKeys | None = None,
    ) -> None:
        # Without colours Textual only greys; with the terminal's own ones it leaves the background alone.
        super().__init__(ansi_color=session.look.palette in ("mono", "ansi"))
        self.session = session
        controller = Controller(broker, actor=actor, timeout_s=timeout_s, keys=keys)
        self.office = deeds.Office(broker, controller, session.state)
        # An explanation does not wait long for workers that do not answer.
        self._asker = Controller(broker, actor=actor, timeout_s=1.0, keys=keys)
        self.errors: list[str] = []
        self._drawn_version = -1
        self._drawn_s = self._due_s = 0.0
        self._slow = 0
        self._frozen = False
        self._focused_terminal = True
        for name in _CYCLE:
            self.register_theme(_theme(name))
        self.theme = session.look.palette if session.look.palette in _CYCLE else "ansi-dark"
        self.add_mode("overview", lambda: OverviewScreen(session))
        self.add_mode("queues", lambda: QueuesScreen(session))
        self.add_mode("workers", lambda: WorkersScreen(session))
        self.add_mode("tasks", lambda: TasksScreen(session))
        self.add_mode("events", lambda: EventsScreen(session))

    async def on_mount(self) -> None:
        await self.switch_mode("overview")
        self.set_interval(TICK_S, self._tick)
        self.run_worker(self._feed(), group="feed", exclusive=True, exit_on_error=False)

    async def _feed(self) -> None:
        """Keep the feed going; a bug in it is shown and the feed starts again."""
        while True:
            try:
                await self.session.feed.run()
            except Exception as error:
                # The border of the dashboard: whatever it was, the picture stays and the next attempt is made.
                self.remember(error)
                await asyncio.sleep(1.0)

    def remember(self, error: BaseException) -> None:
        """Note an error that was survived, for the person at the terminal."""
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        words = f"{type(error).__name__}: {clean(error, 200)}"
        if words not in self.errors[-5:]:
            self.errors.append(words)
            self.session.say(Cell(f"✖ a fault in the dashboard: {words}", "bad"), seconds=20)

    # --------------------------------------------------------------------------------------------------------- drawing

    def _tick(self) -> None:
        """Draw if something changed, at most `hz` times a second, and once a second for the ages."""
        session, now_s = self.session, self.session.clock.monotonic()
        screen = self.live_screen
        if screen is None or now_s < self._due_s:
            return
        changed = session.state.version != self._drawn_version
        if not changed and now_s - self._drawn_s < (1.0 if session.phase == "LIVE" else 0.2):
            return
        try:
            screen.draw()
        except Exception as error:
            self.remember(error)
        self._drawn_version, self._drawn_s = session.state.version, now_s
        took_s = session.clock.monotonic() - now_s
        period_s = 1 / (session.hz if self._focused_terminal else min(session.hz, BLURRED_HZ))
        # From when it was due, not from when the tick came: else the pace would be that of every other tick.
        self._due_s = max(self._due_s, now_s - period_s) + period_s
        self._freeze_garbage()
        self._slow = self._slow + 1 if took_s > SLOW_S else 0
        if self._slow >= 3 and session.hz > 1:
            self._slow, session.hz = 0, max(1.0, session.hz / 2)
            session.say(Cell(f"! drawing is slow here: now {session.hz:.0f} times a second", "warn"))

    def _freeze_garbage(self) -> None:
        """Take what stands after the first snapshot out of the collector's sight: its pauses were the longest ones."""
        if not self._frozen and self.session.feed.polls:
            self._frozen = True
            gc.collect()
            gc.freeze()

    @property
    def live_screen(self) -> LiveScreen | None:
        """The screen whose picture is in view, also behind a dialog."""
        stack: Sequence[Screen[Any]] = self.screen_stack if self._screen_stacks.get(self.current_mode) else ()
        return next((screen for screen in reversed(stack) if isinstance(screen, LiveScreen)), None)

    def draw_now(self) -> None:
        if self.live_screen is not None:
            self.live_screen.draw()

    def on_app_blur(self) -> None:
        self._focused_terminal = False

    def on_app_focus(self) -> None:
        self._focused_terminal = True
        self._due_s = 0.0

    # ----------------------------------------------------------------------------------------------------- going about

    async def action_mode(self, mode: str) -> None:
        if self.current_mode != mode:
            await self.switch_mode(mode)
        while len(self.screen_stack) > 1:
            self.pop_screen()
        self.draw_now()

    async def action_step_back(self, leave: bool) -> None:
        screen = self.screen
        if isinstance(screen, LiveScreen) and screen.step_back():
            return
        if len(self.screen_stack) > 1:
            self.pop_screen()
        elif not leave and self.session.dismiss_gap():
            self.draw_now()
        elif self.current_mode != "overview":
            await self.action_mode("overview")
        elif leave:
            self.exit(0)

    async def action_quit(self) -> None:
        self.exit(0)

    def action_filter(self) -> None:
        if isinstance(self.screen, LiveScreen):
            self.screen.action_filter()

    def action_freeze(self) -> None:
        session = self.session
        session.frozen_ms = None if session.frozen_ms is not None else session.now_ms
        self.draw_now()

    def action_reconnect(self) -> None:
        self.session.feed.hurry()

    def action_pace(self, step: int) -> None:
        paces = (1.0, 2.0, 4.0, 10.0, 20.0)
        at = min(range(len(paces)), key=lambda index: abs(paces[index] - self.session.hz))
        self.session.hz = paces[max(0, min(len(paces) - 1, at + step))]
        self.draw_now()

    def action_next_theme(self) -> None:
        look = self.session.look
        if look.palette not in _CYCLE:
            return
        name = _CYCLE[(_CYCLE.index(look.palette) + 1) % len(_CYCLE)]
        self.theme = name
        self.session.look = Look(name, look.ascii)
        for screens in self._screen_stacks.values():
            for screen in screens:
                for widget in screen.walk_children():
                    if hasattr(widget, "look"):
                        widget.look = self.session.look
        self.draw_now()
        self.refresh(layout=True)

    def action_copy_id(self) -> None:
        row = self._row()
        if row is not None:
            text = clean(getattr(row[1], "id", None) or row[1].key, 300)
            self.copy_to_clipboard(text)
            self.session.say(Cell(f"copied {text}"))
            self.draw_now()

    def action_help(self) -> None:
        if not isinstance(self.screen, TextScreen):
            self.push_screen(TextScreen(self.session, helptext.lines(self.size.width)))

    def action_answers(self) -> None:
        receipt = self.session.receipt
        if receipt is None:
            self.session.say(Cell("No command has been sent yet.", "dim"))
            self.draw_now()
        else:
            self._show_answers(receipt)

    def _row(self) -> tuple[str, Any] | None:
        """Return kind and row under the cursor, or what the screen is about."""
        focused = self.screen.focused
        if isinstance(focused, Grid) and focused.row is not None:
            return focused.view.kind, focused.row
        return self.screen.subject() if isinstance(self.screen, LiveScreen) else None

    @on(Grid.Opened)
    async def _open(self, event: Grid.Opened) -> None:
        row = event.row
        if isinstance(row, WorkerLine):
            self.push_screen(WorkerScreen(self.session, row.key, row.name))
        elif isinstance(row, TaskLine):
            self.push_screen(TaskScreen(self.session, row))
        elif isinstance(row, QueueLine):
            await self._tasks("queued" if row.ready else "running" if row.in_flight else "all", f"q:{row.name}")
        elif isinstance(row, EventLine):
            self._open_event(row)
        elif event.grid.view.kind == "failure":
            first = "".join(each if each.isalnum() or each in "._" else " " for each in row.error).split()
            error = f" error:{first[0]}" if first else ""
            await self._tasks("all", f"name:{row.task} state:retrying,dead,failed{error}")

    def _open_event(self, row: EventLine) -> None:
        state = self.session.state
        if row.task_id:
            known = state.tasks.get(row.task_id) or TaskLine(row.task_id, row.task_id, row.task, row.queue)
            self.push_screen(TaskScreen(self.session, known))
            return
        worker = next((each for each in state.workers.values() if each.name == row.worker), None)
        if worker is not None:
            self.push_screen(WorkerScreen(self.session, worker.key, worker.name))

    async def _tasks(self, tab: str, text: str) -> None:
        await self.action_mode("tasks")
        screen = self.screen
        if isinstance(screen, TasksScreen):
            screen.show_tab(tab)
            screen.set_filter(screen.query_one(Grid), text)

    # --------------------------------------------------------------------------------------------------------- details

    def ask_task(self, screen: TaskScreen) -> None:
        """Ask the broker about the task of this screen, unless the last question is still out."""
        if not any(worker.group == "task" and worker.is_running for worker in self.workers):
            self.run_worker(self._ask_task(screen), group="task", exit_on_error=False)

    async def _ask_task(self, screen: TaskScreen) -> None:
        broker, task_id, problem = self.office.broker, screen.task_id, ""
        before = screen.answer if screen.answer is not None and screen.answer.id == task_id else None
        try:
            status = (await broker.statuses([task_id]))[0]
            envelope = before.envelope if before is not None else None
            if envelope is None and (stored := await broker.body(task_id)) is not None:
                try:
                    envelope = Envelope.decode(stored[0])
                except StemError as error:
                    problem = f"its body cannot be read: {clean(error, 200)}"
            explanation = None
            if status is not None and not status.state.final:
                explanation = await why(broker, self._asker, task_id)
            screen.answer = details.TaskAnswer(
                id=task_id, status=status, envelope=envelope, explanation=explanation, problem=problem
            )
        except StemError as error:
            if before is None:
                screen.answer = details.TaskAnswer(id=task_id, problem=clean(error, 300))
        self.session.state.version += 1

    async def _ask_stack(self, row: WorkerLine, screen: TextScreen) -> None:
        try:
            answers = await self.office.controller.inspect("stack", [row.key])
        except StemError as error:
            screen.set_lines([[Cell(f"   {clean(error, 300)}", "bad")]])
        else:
            screen.set_lines(details.stack_lines(answers, row.name, self.size.width))

    # ----------------------------------------------------------------------------------------------------------- deeds

    def action_deed(self, key: str) -> None:
        """Do what this key does with the row under the cursor, or with what the screen is about."""
        focused = self.screen.focused
        if isinstance(focused, Grid) and (action := find(focused.view.kind, key)) is not None:
            self._start(action, focused.chosen())
            return
        subject = self.screen.subject() if isinstance(self.screen, LiveScreen) else None
        if subject is not None and (action := find(subject[0], key)) is not None:
            self._start(action, [subject[1]])

    def action_menu(self) -> None:
        found = self._row()
        if found is None:
            return
        kind, row = found
        focused = self.screen.focused
        rows = focused.chosen() if isinstance(focused, Grid) and focused.row is row else [row]
        listed = [(each, self.session.writes or not each.changes) for each in actions.deeds(kind)]
        name = f"{kind} {clean(getattr(row, 'name', '') or getattr(row, 'id', '') or row.key, 60)}"

        def chosen(action_id: str | None) -> None:
            if action_id:
                self._start(BY_ID[action_id], rows)

        self.push_screen(Menu(self.session.look, name if len(rows) == 1 else f"{len(rows)} {kind}s", listed), chosen)

    def action_undo(self) -> None:
        undo, now_s = self.session.undo, self.session.clock.monotonic()
        if undo is None or now_s > undo[1]:
            return
        self.session.undo = None
        self._start(BY_ID[undo[0].action_id], undo[0].rows, undo[0].way)

    def _start(self, action: Action, rows: Sequence[Any], way: str = "") -> None:
        if not rows:
            return
        if action.id == "worker.stack":
            screen = TextScreen(self.session, [[Cell(f"   asking {rows[0].name} …", "dim")]])
            self.push_screen(screen)
            self.run_worker(self._ask_stack(rows[0], screen), group="stack", exclusive=True, exit_on_error=False)
            return
        if not self.session.writes:
            why_not = "started with --read-only" if self.session.read_only else "not connected"
            self.session.say(Cell(f"! {action.label.lower()}: {why_not}, nothing was sent", "warn"))
            self.draw_now()
            return
        self.run_worker(self._carry_out(action, list(rows), way), group="deed", exit_on_error=False)

    async def _carry_out(self, action: Action, rows: list[Any], way: str) -> None:
        session, verb = self.session, way or deeds.verb(action, rows)
        name = deeds.target_word(action, rows)
        # What is taken back was asked for a moment ago.
        if not way and not await self._confirmed(action, rows):
            session.say(Cell(f"{verb} {name}: not sent", "dim"), seconds=3)
            self.draw_now()
            return
        session.say(Cell(f"… {verb} {name}, waiting for the workers", "dim"), seconds=30)
        self.draw_now()
        try:
            receipt = await deeds.carry_out(action, rows, self.office, verb if way else "")
        except StemError as error:
            # What a broker error leaves open is said: some commands may have been stored all the same.
            unsure = "" if not isinstance(error, BrokerError) else "; look whether it was applied"
            session.say(Cell(f"✖ {verb} {name}: {clean(error, 200)}{unsure}", "bad"), seconds=20)
        except Exception as error:
            self.remember(error)
        else:
            self._concluded(receipt, asked=action.tier != 0)
        session.feed.hurry()
        self.draw_now()

    def _concluded(self, receipt: deeds.Receipt, *, asked: bool) -> None:
        session = self.session
        now = session.clock.monotonic()
        session.receipt = receipt
        stamp = figures.clock(session.now_ms)
        session.say(receipt.sign, Cell(f" {receipt.headline}"), Cell(f" · {stamp}", "dim"), Cell(" · a answers", "dim"))
        session.undo = None if receipt.undo is None else (receipt.undo, now + UNDO_S)
        if asked or receipt.verdict != "ok":
            self._show_answers(receipt)

    def _show_answers(self, receipt: deeds.Receipt) -> None:
        lines = receipt.lines or [[Cell("   Nothing more to say.", "dim")]]
        self.push_screen(Answered(self.session.look, [receipt.sign, Cell(f" {receipt.headline}", "title")], lines))

    async def _confirmed(self, action: Action, rows: list[Any]) -> bool:
        """Ask, as much as the action and the number of rows deserve."""
        question = deeds.question(action, rows)
        if question is None:
            return True
        dialog = Confirm(self.session.look, question.title, question.lines, yes=question.yes, word=question.word)
        answer: bool = await self.push_screen_wait(dialog)
        return answer


def default_hz() -> float:
    """Return how often to draw: less over a network, where each frame travels."""
    return 4.0 if os.environ.get("SSH_CONNECTION") else 10.0
