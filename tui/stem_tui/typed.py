"""What is typed and what is taken away: the command line, exports and copies. Sends nothing to the broker but reads."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from stem.contracts import Broker
from stem.errors import StemError
from stem.observe.failures import FailureGroup
from stem.observe.rates import Flow
from stem.observe.rows import EventLine, QueueLine, TaskLine, WorkerLine
from stem.text import clean
from stem_tui import about, commands, export, prompt
from stem_tui.actions import ROWS
from stem_tui.filter import Fields, FilterError, hints, parse
from stem_tui.prompt import Known, Order
from stem_tui.reckon import Everything, gather
from stem_tui.session import Session
from stem_tui.tasks import TABS
from stem_tui.theme import Cell
from stem_tui.widgets.command import CommandLine
from stem_tui.widgets.dialogs import Prompt
from stem_tui.widgets.grid import Grid
from stem_tui.work import work

if TYPE_CHECKING:
    from stem_tui.app import StemTUI

EXPORTED: Final = 100_000
"""Tasks of one file at most, where all that pass a filter are wanted."""
_WAYS: Final = ("pause", "resume", "drain", "undrain")


@dataclass(frozen=True, slots=True)
class Chosen:
    """What an action would be done to: rows of one kind, or all tasks that `which` means."""

    kind: str
    rows: Sequence[Any]
    which: Everything | None = None


class Typed:
    """Belongs to the app and its event loop."""

    def __init__(self, app: StemTUI, session: Session, broker: Broker) -> None:
        self._app = app
        self._session = session
        self._broker = broker

    # ---------------------------------------------------------------------------------------------------- command line

    def ask(self) -> None:
        """Open the command line; what it names is what was chosen when it opened."""
        chosen = self._app.chosen()
        focused = self._app.screen.focused
        grid = focused if isinstance(focused, Grid) else None
        known = self._known(chosen, grid)

        async def ordered(order: Order | None) -> None:
            if order is not None:
                await self.obey(order, chosen, grid)

        self._app.push_screen(CommandLine(self._session.look, known, self._session.history), ordered)

    def _known(self, chosen: Chosen | None, grid: Grid | None) -> Known:
        state = self._session.state
        tasks = [row.id for row in (*state.running.values(), *list(state.open.values())[:500])]
        words: dict[str, Sequence[str]] = {
            "queue": sorted(row.name for row in state.queues.values()),
            "worker": sorted({row.name for row in state.workers.values()}),
            "task": list(dict.fromkeys(tasks)),
            "theme": self._app.themes_known,
            "filter": hints(grid.view.fields if grid is not None else {}),
            "duration": ("30s", "10m", "1h", "1d"),
        }
        return Known(kind="" if chosen is None else chosen.kind, words=words)

    async def obey(self, order: Order, chosen: Chosen | None, grid: Grid | None) -> None:
        """Do what a line asks for."""
        action, argument = order.action, order.argument
        if action.scope in ROWS:
            if chosen is not None and chosen.kind == action.scope:
                for_s = prompt.seconds(argument) if argument and action.pauses else None
                way = order.name if order.name in _WAYS else ""
                self._app.acting.start(action, chosen.rows, which=chosen.which, way=way, for_s=for_s)
            return
        match action.id:
            case "command.queue" | "command.worker" | "command.task":
                await self._open(action.name, argument)
            case "command.theme":
                self._app.show_theme(argument)
            case "app.tasks" if argument:
                if self._parses(argument, TABS["all"].fields):
                    await self._app.show_tasks("all", argument)
            case "app.filter" if argument:
                self._filter(grid, argument)
            case "app.export" if argument:
                self._write(argument, self._rows(grid))
            case _:
                where = grid if action.scope == "list" else self._app
                if where is not None:
                    await self._app.run_action(action.call, default_namespace=where)

    async def _open(self, kind: str, name: str) -> None:
        state = self._session.state
        row: QueueLine | WorkerLine | TaskLine | None
        if kind == "queue":
            row = about.queue_of(state, name)
        elif kind == "worker":
            row = about.worker_of(state, name)
        else:
            row = state.tasks.get(name) or TaskLine(name, clean(name, 64))
        if row is None:
            self._say(f"! there is no {kind} {clean(name, 64)}", "warn")
        else:
            await self._app.open_row(row)

    def _filter(self, grid: Grid | None, text: str) -> None:
        if grid is None or not grid.view.fields:
            self._say("! there is no list here to filter", "warn")
            return
        screen = self._app.live_screen
        if screen is not None and self._parses(text, grid.view.fields):
            screen.set_filter(grid, text)

    def _parses(self, text: str, fields: Fields) -> bool:
        """Say whether it is a filter; if not, say why."""
        try:
            parse(text, fields)
        except FilterError as error:
            self._say(f"✗ {clean(error)}", "warn")
            return False
        return True

    # -------------------------------------------------------------------------------------------------------- exporting

    def export(self) -> None:
        """Ask for a file's name, and write the rows of the panel with the cursor to it."""
        focused = self._app.screen.focused
        if not isinstance(focused, Grid) or not focused.rows:
            self._say("! there are no rows here to export", "warn")
            return
        grid = focused
        name = export.file_name(self._session.namespace, grid.view.title, self._session.now_ms)

        def named(path: str | None) -> None:
            if path:
                self._write(path, self._rows(grid))

        rows, which = self._rows(grid)
        what = _rows_word(len(rows)) if which is None else "everything that passes the filter"
        hint = "a name that ends with .csv or .jsonl; what is there already is not overwritten"
        self._app.push_screen(Prompt(self._session.look, f"Export {what} to", hint, export.form_of, value=name), named)

    def _rows(self, grid: Grid | None) -> tuple[Sequence[Any], Everything | None]:
        if grid is None:
            return (), None
        screen = self._app.live_screen
        which = screen.everything(grid) if screen is not None and grid.everything else None
        return (grid.chosen() if grid.marked else list(grid.rows)), which

    def _write(self, path: str, what: tuple[Sequence[Any], Everything | None]) -> None:
        self._app.run_worker(work(self._written, path, *what), group="export", exit_on_error=False)

    async def _written(self, path: str, rows: Sequence[Any], which: Everything | None) -> None:
        try:
            more = ""
            if which is not None:
                found = await gather(self._broker, self._session.state, which, most=EXPORTED)
                # What has ended is in no list of the broker's, but it stands in the one on the screen.
                known = {row.key for row in found.rows}
                rows = [*found.rows, *(row for row in rows if row.key not in known)]
                more = " (there are more)" if found.cut else ""
            if not rows:
                self._say("! there are no rows here to export", "warn")
                return
            target = await asyncio.to_thread(export.write, path, rows, self._session.now_ms)
        except (StemError, export.ExportError) as error:
            self._say(f"✖ export: {clean(error, 200)}", "bad")
        except Exception as error:
            self._app.remember(error)
        else:
            self._say(f"✓ {_rows_word(len(rows))}{more} written to {clean(target, 200)}", "ok")

    # ----------------------------------------------------------------------------------------------------------- copies

    def copy_id(self) -> None:
        """Copy what names the row under the cursor."""
        chosen = self._app.chosen()
        if chosen is not None and chosen.rows:
            self._copy(clean(_name(chosen.rows[0]), 300))

    def copy_command(self) -> None:
        """Copy the stemctl command that shows the row under the cursor."""
        chosen = self._app.chosen()
        if chosen is None or not chosen.rows:
            return
        row = chosen.rows[0]
        kind, target = chosen.kind, row.key if isinstance(row, QueueLine | WorkerLine | TaskLine) else _name(row)
        if isinstance(row, EventLine):
            kind, target = about.named(row)
        command = commands.look(kind, target, self._session.where)
        if command is None:
            self._say("! no stemctl command shows this", "warn")
        else:
            self._copy(command)

    def _copy(self, text: str) -> None:
        self._app.copy_to_clipboard(text)
        self._say(f"copied {clean(text, 120)}", "text")

    def _say(self, words: str, tone: str) -> None:
        self._session.say(Cell(words, tone))
        self._app.draw_now()


def _name(row: Any) -> str:
    """Return what names a row to a person: the id of what has one."""
    match row:
        case EventLine():
            return row.task_id or row.worker or row.queue or row.task
        case Flow():
            return row.name
        case FailureGroup():
            return row.task
    return str(getattr(row, "id", "") or row.key)


def _rows_word(count: int) -> str:
    return f"{count:,} row{'' if count == 1 else 's'}"
