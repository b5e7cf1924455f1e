"""The dashboard: runs the feed, draws at a steady pace, and takes keys to what they do. Knows no adapter.

All I/O is in asyncio workers that never end the app; the screens only draw what the session holds.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import Any, ClassVar, Final

from textual import events, on
from textual.app import App
from textual.await_complete import AwaitComplete
from textual.binding import BindingType
from textual.screen import Screen
from textual.theme import Theme
from textual.widgets import Input

from stem.authority import ControlKeys
from stem.contracts import Broker
from stem.control.asking import Asker
from stem.control.controller import Controller
from stem.observe.failures import FailureGroup
from stem.observe.rates import Flow
from stem.observe.rows import EventLine, QueueLine, TaskLine, WorkerLine
from stem.text import clean
from stem_tui import about, details, helptext
from stem_tui.acting import Acting
from stem_tui.actions import deeds, find
from stem_tui.audit import AuditLine, audit_lines
from stem_tui.deeds import Office
from stem_tui.garbage import EVERY_S, Garbage
from stem_tui.reader import Reader
from stem_tui.screens.base import LiveScreen
from stem_tui.screens.details import TaskScreen, TextScreen, WorkerScreen
from stem_tui.screens.events import AuditScreen, EventsScreen
from stem_tui.screens.lists import TasksScreen, WorkersScreen
from stem_tui.screens.overview import OverviewScreen
from stem_tui.screens.queues import QueueScreen, QueuesScreen
from stem_tui.session import Session
from stem_tui.theme import PALETTES, Cell, Look
from stem_tui.typeahead import TypeAhead
from stem_tui.typed import Chosen, Typed
from stem_tui.widgets.grid import Grid
from stem_tui.widgets.keys import bindings
from stem_tui.work import work

TICK_S: Final = 0.05
SLOW: Final = 0.5
QUICK: Final = 0.25
"""Of the time from one drawing to the next. Not seconds: what is drawn seldom has more to draw each time, and would be
slow for ever once it was slow for a moment."""
SLOW_DRAWS: Final = 3
QUICK_DRAWS: Final = 50
"""So many slow ones in a row halve the pace; so many quick ones in a row double it again."""
BLURRED_HZ: Final = 2.0
LEAVE_S: Final = 1.5
"""The end waits no longer for a broker that does not answer."""
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


def _of_the_whole(subject: tuple[str, Any] | None, key: str, *, some: bool) -> bool:
    """Say whether a key means what the screen is about, whatever row its cursor is on.

    A pause does, unless `some` rows were chosen for it: that of a row would be of all tasks of its name, on every
    queue. And all keys of a worker do, since what it runs has none of them.
    """
    action = None if subject is None else find(subject[0], key)
    return subject is not None and action is not None and (subject[0] == "worker" or (action.pauses and not some))


class StemTUI(App[int], inherit_bindings=False):
    """The whole dashboard over one broker."""

    TITLE = "stem-tui"
    ENABLE_COMMAND_PALETTE = False
    ALLOW_SELECT = False
    CSS_PATH = "stem.tcss"
    BINDINGS: ClassVar[list[BindingType]] = bindings("app")

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
        self.broker = broker
        # An explanation does not wait long for workers that do not answer.
        self.reader = Reader(broker, Asker(broker, actor=actor, timeout_s=1.0, keys=keys), session.state)
        office = None
        if not session.read_only:
            controller = Controller(broker, actor=actor, timeout_s=timeout_s, keys=keys)
            office = Office(broker, controller, session.state)
        self.acting = Acting(self, session, broker, office)
        self.typed = Typed(self, session, broker)
        self.errors: list[str] = []
        self._feeding: asyncio.Task[None] | None = None
        self._drawn_version = -1
        self._drawn_s = self._due_s = 0.0
        self._slow = self._quick = 0
        self._wanted_hz = session.hz
        self._garbage = Garbage()
        self._ahead = TypeAhead(self)
        self._focused_terminal = True
        for name in _CYCLE:
            self.register_theme(_theme(name))
        self.theme = session.look.palette if session.look.palette in _CYCLE else "ansi-dark"
        self.add_mode("overview", lambda: OverviewScreen(session))
        self.add_mode("queues", lambda: QueuesScreen(session))
        self.add_mode("workers", lambda: WorkersScreen(session))
        self.add_mode("tasks", lambda: TasksScreen(session))
        self.add_mode("events", lambda: EventsScreen(session))
        self.add_mode("audit", lambda: AuditScreen(session))

    async def on_mount(self) -> None:
        await self.switch_mode("overview")
        self.set_interval(TICK_S, self._tick)
        self.set_interval(EVERY_S, self._garbage.settle)
        self._feeding = asyncio.create_task(self._feed(), name="feed")

    async def on_unmount(self) -> None:
        """Wait for the feed to give its watch back: whoever ran the app closes the broker next."""
        if self._feeding is not None:
            # Cancelled here alone: Textual cancels its own workers several times, and would so cut that short.
            self._feeding.cancel()
            await asyncio.wait([self._feeding], timeout=LEAVE_S)

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

    async def on_event(self, event: events.Event) -> None:
        """Take what comes from the terminal; of keys, one after the other."""
        if not isinstance(event, events.Key) or event.is_forwarded:
            await super().on_event(event)
        elif self._ahead.may_go(event):
            if not await self._means(event.key):
                await super().on_event(event)
            self._ahead.gone()

    async def _means(self, key: str) -> bool:
        """Do what a key means here and now, where no widget takes keys itself; say whether it means something.

        On its way through the focus and all that is around it, it would wait in five queues, each time behind what is
        being drawn or read just then.
        """
        if not isinstance(self.screen, LiveScreen) or isinstance(self.focused, Input) or not self.app_focus:
            return False
        return await self._check_bindings(key, priority=True) or await self._check_bindings(key)

    # --------------------------------------------------------------------------------------------------------- drawing

    def _tick(self) -> None:
        """Draw if something changed, at most `hz` times a second, and once a second for the ages."""
        session, now_s = self.session, self.session.clock.monotonic()
        screen = self.live_screen
        # The nearest tick, not the first one after: a tick that came a moment early would cost a whole one more.
        if screen is None or now_s < self._due_s - TICK_S / 2:
            return
        changed = session.state.version != self._drawn_version
        if not changed and now_s - self._drawn_s < (1.0 if session.phase == "LIVE" else 0.2):
            return
        screen.draw()
        self._drawn_version, self._drawn_s = session.state.version, now_s
        took_s = session.clock.monotonic() - now_s
        period_s = 1 / (session.hz if self._focused_terminal else min(session.hz, BLURRED_HZ))
        # From when it was due, not from when the tick came: else the pace would be that of every other tick.
        self._due_s = max(self._due_s, now_s - period_s) + period_s
        self._keep_pace(took_s / period_s)

    def _keep_pace(self, share: float) -> None:
        """Draw less often where drawing takes too much of the time, and as often as was asked for once it does not."""
        session = self.session
        self._slow = self._slow + 1 if share > SLOW else 0
        self._quick = self._quick + 1 if share < QUICK else 0
        if self._slow >= SLOW_DRAWS and session.hz > 1:
            self._slow, session.hz = 0, max(1.0, session.hz / 2)
            session.say(Cell(f"! drawing is slow here: now {session.hz:.0f} times a second", "warn"))
        elif self._quick >= QUICK_DRAWS and session.hz < self._wanted_hz:
            self._quick, session.hz = 0, min(self._wanted_hz, session.hz * 2)

    def pop_screen(self) -> AwaitComplete:
        self._garbage.closed += 1
        return super().pop_screen()

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
        self.session.hz = self._wanted_hz = paces[max(0, min(len(paces) - 1, at + step))]
        self.draw_now()

    def action_next_theme(self) -> None:
        palette = self.session.look.palette
        if palette in _CYCLE:
            self.show_theme(_CYCLE[(_CYCLE.index(palette) + 1) % len(_CYCLE)])

    @property
    def themes_known(self) -> Sequence[str]:
        """The sets of colours that can be changed to; none where the terminal's own are used."""
        return _CYCLE if self.session.look.palette in _CYCLE else ()

    def show_theme(self, name: str) -> None:
        """Change the colours; `deut` will do for `stem-deut`."""
        found = [each for each in self.themes_known if name in (each, each.removeprefix("stem-"))]
        if not found:
            known = ", ".join(self.themes_known) or "NO_COLOR or the terminal's own colours are in force"
            self.session.say(Cell(f"! no colours {clean(name, 40)}: {known}", "warn"))
            self.draw_now()
            return
        self.theme = found[0]
        self.session.look = Look(found[0], self.session.look.ascii)
        for screens in self._screen_stacks.values():
            for screen in screens:
                for widget in screen.walk_children():
                    if hasattr(widget, "look"):
                        widget.look = self.session.look
        self.draw_now()
        self.refresh(layout=True)

    def action_copy_id(self) -> None:
        self.typed.copy_id()

    def action_copy_command(self) -> None:
        self.typed.copy_command()

    def action_export(self) -> None:
        self.typed.export()

    def action_command(self) -> None:
        self.typed.ask()

    def action_help(self) -> None:
        if not isinstance(self.screen, TextScreen):
            chosen = self.chosen()
            kind = "" if chosen is None else chosen.kind
            focused = self.screen.focused
            kind = focused.view.kind if isinstance(focused, Grid) else kind
            self.push_screen(TextScreen(self.session, helptext.lines(self.size.width, kind)))

    def action_answers(self) -> None:
        receipt = self.session.receipt
        if receipt is None:
            self.session.say(Cell("No command has been sent yet.", "dim"))
            self.draw_now()
        else:
            self.acting.show_answers(receipt)

    def chosen(self, key: str = "") -> Chosen | None:
        """Return the marked rows or the one under the cursor, or what the screen is about.

        Args:
            key: the one pressed: what it means nothing for is passed over.
        """
        screen = self.screen
        if not isinstance(screen, LiveScreen):
            return None
        focused, subject = screen.focused, screen.subject()
        if isinstance(focused, Grid) and focused.row is not None:
            kind = focused.view.kind
            some = bool(focused.marked or focused.everything)
            if not key or (find(kind, key) is not None and not _of_the_whole(subject, key, some=some)):
                which = screen.everything(focused) if focused.everything else None
                return Chosen(kind, focused.chosen(), which)
            if some and find(kind, key) is None:
                return Chosen(kind, focused.chosen())  # nothing, and not all that the screen is about instead
        return None if subject is None else Chosen(subject[0], [subject[1]])

    @on(Grid.Opened)
    async def _opened(self, event: Grid.Opened) -> None:
        await self.open_row(event.row)

    @on(Grid.Missed)
    def _missed(self) -> None:
        self._nothing("there is nothing (any more) in this list")

    def _nothing(self, why: str) -> None:
        """Say why a key does nothing here."""
        self.session.say(Cell(f"! {why}", "warn"))
        self.draw_now()

    async def open_row(self, row: Any) -> None:
        """Show the details of a row."""
        if isinstance(row, WorkerLine):
            self.push_screen(WorkerScreen(self.session, row.key, row.name))
        elif isinstance(row, TaskLine):
            self.push_screen(TaskScreen(self.session, row))
        elif isinstance(row, QueueLine):
            self.push_screen(QueueScreen(self.session, row))
        elif isinstance(row, EventLine):
            await self._open_event(row)
        elif isinstance(row, AuditLine):
            self.push_screen(TextScreen(self.session, audit_lines(row, self.size.width)))
        elif isinstance(row, Flow):
            await self.show_tasks("all", f"name:={clean(row.name)}")
        elif isinstance(row, FailureGroup):
            first = "".join(each if each.isalnum() or each in "._" else " " for each in row.error).split()
            error = f" error:{first[0]}" if first else ""
            await self.show_tasks("all", f"name:={row.task} state:retrying,dead,failed{error}")

    async def _open_event(self, row: EventLine) -> None:
        found = about.subject(row, self.session.state)
        if not isinstance(found, str):
            await self.open_row(found[1])
        elif row.task and not about.named(row)[0]:
            await self.show_tasks("all", f"name:={row.task}")
        else:
            self._nothing(found)

    async def show_tasks(self, tab: str, text: str) -> None:
        """Go to the tasks of a state, filtered."""
        await self.action_mode("tasks")
        screen = self.screen
        if isinstance(screen, TasksScreen):
            screen.show_tab(tab)
            screen.set_filter(screen.query_one(Grid), text)

    def ask_stack(self, row: WorkerLine) -> None:
        """Ask a worker where its threads and tasks are, and show what it says."""
        screen = TextScreen(self.session, [[Cell(f"   asking {row.name} …", "dim")]])
        self.push_screen(screen)
        self.run_worker(work(self._ask_stack, row, screen), group="stack", exclusive=True, exit_on_error=False)

    async def _ask_stack(self, row: WorkerLine, screen: TextScreen) -> None:
        answers = await self.reader.stack(row.key)
        if isinstance(answers, str):
            screen.set_lines([[Cell(f"   {answers}", "bad")]])
        else:
            screen.set_lines(details.stack_lines(answers, row.name, self.size.width))

    # ----------------------------------------------------------------------------------------------------------- deeds

    def action_deed(self, key: str) -> None:
        """Do what this key does with the row under the cursor, or with what the screen is about."""
        chosen = self.chosen(key)
        if chosen is not None and (action := find(chosen.kind, key)) is not None:
            self.acting.start(action, chosen.rows, which=chosen.which)
        elif isinstance(grid := self.screen.focused, Grid) and chosen is not None and chosen.kind == grid.view.kind:
            self._nothing("nothing can be done with the marked rows by this key")
        elif isinstance(grid := self.screen.focused, Grid) and grid.row is None and find(grid.view.kind, key):
            self._missed()

    def action_menu(self) -> None:
        chosen = self.chosen()
        if chosen is not None and chosen.kind == "event":
            self._event_menu(chosen.rows)
        elif chosen is not None and chosen.rows and not deeds(chosen.kind):
            self._nothing("nothing can be done with this")
        elif chosen is not None and chosen.rows:
            self.acting.menu(chosen.kind, chosen.rows, chosen.which)
        elif isinstance(self.screen.focused, Grid):
            self._missed()

    def _event_menu(self, rows: Sequence[EventLine]) -> None:
        """Show what can be done with what an event is about; what has happened stays as it is."""
        found = about.subject(rows[0], self.session.state) if len(rows) == 1 else "they are several events"
        if isinstance(found, str):
            self._nothing(f"nothing can be done with this: {found}")
        else:
            self.acting.menu(found[0], [found[1]], None)

    def action_undo(self) -> None:
        self.acting.undo()


def default_hz() -> float:
    """Return how often to draw: less over a network, where each frame travels."""
    return 4.0 if os.environ.get("SSH_CONNECTION") else 10.0
