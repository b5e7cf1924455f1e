"""What goes to the screen: data on stdout, talk on stderr, one JSON object where asked for.

All text that came from a message passes `clean()` here and is never read as markup. Rich is loaded only to draw a table
on a terminal.
"""

from __future__ import annotations

import base64
import json
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final, Literal, TextIO

from stem.streams import on_terminal
from stem.text import clean
from stemctl.exits import INTERRUPTED, Problem, problem_of

SCHEMA: Final = "stem/1"
CELL_LIMIT: Final = 80
WHOLE: Final = sys.maxsize
"""The limit of text that is printed to be used, and would be wrong if it was cut."""

GAP: Final = 2
UNCUT: Final = frozenset({"ID", "STATE", "AT", "TIME"})
"""Columns that no terminal is too narrow for, beside the first one and the numbers."""

Cell = object
"""What a table shows; everything is cleaned. None is shown as a dash."""

STYLES: Final = {
    "healthy": "green",
    "busy": "green",
    "wedged": "bold red",
    "deaf": "bold red",
    "lost": "bold red",
    "draining": "yellow",
    "stopped": "dim",
    "running": "green",
    "succeeded": "green",
    "failed": "red",
    "retrying": "yellow",
    "revoked": "magenta",
    "expired": "magenta",
    "paused": "yellow",
}
"""Words that are coloured on a terminal wherever a cell is exactly that word."""


class CannotWriteError(OSError):
    """stdout takes nothing: it is closed, or what is behind it is full. A reader that left is none of these."""

    def __init__(self, cause: OSError | None = None) -> None:
        super().__init__("stdout is closed" if cause is None else cause.strerror or str(cause))


@contextmanager
def writing() -> Iterator[TextIO]:
    """Give stdout to write to.

    Raises:
        CannotWriteError: it takes nothing.
        BrokenPipeError: its reader has left.
    """
    if sys.stdout is None:
        raise CannotWriteError
    try:
        yield sys.stdout
    except BrokenPipeError:
        raise
    except OSError as error:
        raise CannotWriteError(error) from error


class Output:
    """Where one command writes to.

    Args:
        command: its name, such as `tasks ls`.

    Attributes:
        secrets: texts that must never appear, such as a password from the URL.
    """

    def __init__(self, command: str, *, as_json: bool, quiet: bool) -> None:
        self.command = command
        self.as_json = as_json
        self.quiet = quiet
        self.secrets: list[str] = []

    # ------------------------------------------------------------------------------------------------- talk, to stderr

    def note(self, text: str) -> None:
        """Say something that is not data; silent with --quiet."""
        if not self.quiet:
            self._talk(text)

    def warn(self, text: str) -> None:
        """Say what might not be as wished."""
        self._talk(f"warning: {text}")

    def problem(self, problem: Problem) -> None:
        """Say why the command does not end well, in one line, and what to do."""
        hint = f"; {problem.hint}" if problem.hint else ""
        self._talk(f"stemctl: {problem.message}{hint}")

    def failed(self, error: Exception, *, debug: bool = False, changing: bool = True) -> int:
        """Say why a command could not run at all, and return the exit code.

        Args:
            changing: it is one of those that change something.
        """
        problem = problem_of(error, changing=changing)
        if debug:
            import traceback  # here: rarely needed

            # The message of an error may hold what was typed, or came from the server.
            for line in self.hide("".join(traceback.format_exception(error))).splitlines():
                talk(clean(line, 4_000))
        try:
            if self.as_json:
                with suppress(BrokenPipeError):  # the reader has left; stderr and the exit code tell
                    self.envelope(None, problem=problem)
        finally:
            self.problem(problem)
        return problem.exit

    def interrupted(self, problem: Problem | None = None) -> int:
        """Say that somebody ended the command, with --json; else only what matters then. Return the exit code."""
        if self.as_json:
            with suppress(BrokenPipeError):  # what read this was interrupted too
                self.envelope(
                    None, problem=problem or Problem(INTERRUPTED, "interrupted", "interrupted before the end")
                )
        if problem is not None:
            self.problem(problem)
        return INTERRUPTED

    def _talk(self, text: str) -> None:
        talk(clean(self.hide(text), 1_000))

    def hide(self, text: str) -> str:
        """Return `text` without the secrets of this call."""
        for secret in self.secrets:
            text = text.replace(secret, "***")
        return text

    # ------------------------------------------------------------------------------------------------- data, to stdout

    def envelope(self, data: object, warnings: Sequence[str] = (), problem: Problem | None = None) -> None:
        """Print the one JSON object of this command; without data it is an error."""
        whole: dict[str, Any] = {"schema": SCHEMA, "command": self.command, "ok": problem is None}
        if data is not None:
            whole["data"] = data
            whole["warnings"] = [self.hide(warning) for warning in warnings]
        if problem is not None:
            whole["error"] = {
                "code": problem.code,
                "message": self.hide(problem.message),
                "hint": self.hide(problem.hint),
            }
            if problem.task_id:
                whole["error"]["task_id"] = problem.task_id
        self.json(whole)

    def json(self, value: object) -> None:
        """Print one value as one line of JSON."""
        with writing() as stdout:
            stdout.write(json.dumps(plain(value), separators=(",", ":")) + "\n")
            stdout.flush()

    def line(self, text: object = "") -> None:
        """Print one cleaned line of data."""
        with writing() as stdout:
            stdout.write(clean(text, 4_000) + "\n")

    def flush(self) -> None:
        """Let a reader see now what was printed."""
        with writing() as stdout:
            stdout.flush()

    def block(self, text: str) -> None:
        """Print text of several lines whole, each of them cleaned."""
        with writing() as stdout:
            for line in text.split("\n"):
                stdout.write(clean(line.rstrip("\r"), WHOLE) + "\n")

    def fields(self, rows: Sequence[tuple[str, Cell]]) -> None:
        """Print names and values, one pair a line."""
        width = max((len(name) for name, _ in rows), default=0)
        for name, value in rows:
            self.line(f"{name:<{width}}  {_shown(value, 4_000)}")

    def table(self, head: Sequence[str], rows: Sequence[Sequence[Cell]], *, right: Sequence[str] = ()) -> None:
        """Print a table; `right` names the columns of numbers."""
        if on_terminal(sys.stdout) and os.environ.get("TERM") != "dumb":
            self._rich_table(head, rows, right)
            return
        shown = [list(head), *([_shown(cell) for cell in row] for row in rows)]
        widths = [max(len(row[column]) for row in shown) for column in range(len(head))]
        with writing() as stdout:
            for row in shown:
                cells = [
                    f"{cell:>{width}}" if name in right else f"{cell:<{width}}"
                    for cell, width, name in zip(row, widths, head, strict=True)
                ]
                stdout.write("  ".join(cells).rstrip() + "\n")

    def _rich_table(self, head: Sequence[str], rows: Sequence[Sequence[Cell]], right: Sequence[str]) -> None:
        # Here, because importing Rich takes longer than asking all workers.
        from rich.cells import cell_len
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        shown = [[_shown(cell) for cell in row] for row in rows]
        widths = [max(map(cell_len, column)) for column in zip(head, *shown, strict=True)]
        least = [
            cell_len(name) if index and name not in UNCUT and name not in right else width
            for index, (name, width) in enumerate(zip(head, widths, strict=True))
        ]
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, GAP, 0, 0))
        with writing() as stdout:
            console = Console(file=stdout, highlight=False, markup=False, emoji=False)
            gaps = GAP * (len(head) - 1)
            widths = fitted(widths, least, console.width - gaps)
            # What does not fit all the same goes on in the terminal's next line: half a number is a wrong one.
            console.width = max(console.width, sum(widths) + gaps)
            for name, width in zip(head, widths, strict=True):
                justify: Literal["right", "left"] = "right" if name in right else "left"
                table.add_column(name, justify=justify, width=width, no_wrap=True, overflow="ellipsis")
            for row in shown:
                table.add_row(*(Text(text, style=STYLES.get(text, "")) for text in row))
            console.print(table)


def talk(line: str) -> None:
    """Write one line to stderr; where that takes nothing there is nobody left to tell."""
    if sys.stderr is not None:
        with suppress(OSError):
            sys.stderr.write(line + "\n")
            sys.stderr.flush()


def fitted(widths: Sequence[int], least: Sequence[int], room: int) -> list[int]:
    """Return widths that together need no more than `room`, if that can be: the widest give way, none below `least`."""
    given = list(widths)
    while sum(given) > room:
        widest = max((width for width, floor in zip(given, least, strict=True) if width > floor), default=None)
        if widest is None:
            break
        given[next(at for at, width in enumerate(given) if width == widest and width > least[at])] -= 1
    return given


def _shown(cell: Cell, limit: int = CELL_LIMIT) -> str:
    if cell is None or cell == "":
        return "-"
    if cell is True or cell is False:
        return "yes" if cell else "no"
    return clean(cell, limit)


def plain(value: object) -> Any:
    """Return `value` as JSON can hold it: bytes as base64, NaN and infinity as text, keys as text."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    return str(value)


def inline(value: object, limit: int = 200) -> str:
    """Return a decoded value as one line of JSON, for people."""
    return clean(json.dumps(plain(value), ensure_ascii=False), limit)


def duration(milliseconds: float | None) -> str:
    """Return a duration for people, such as `85ms`, `4.2s`, `3m 20s`, `2d 4h`."""
    if milliseconds is None:
        return "-"
    if milliseconds < 1_000:
        return f"{max(0.0, milliseconds):.0f}ms"
    seconds = milliseconds / 1_000
    if seconds < 60:
        return f"{seconds:.1f}s"
    whole = int(seconds)
    for size, name, below, under in ((86_400, "d", 3_600, "h"), (3_600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= size:
            rest = whole % size // below
            return f"{whole // size}{name} {rest}{under}" if rest else f"{whole // size}{name}"
    return f"{seconds:.1f}s"


def size(count: int) -> str:
    """Return bytes for people, such as `32.1MB`."""
    amount = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1_000 or unit == "GB":
            return f"{amount:.0f}{unit}" if unit == "B" else f"{amount:.1f}{unit}"
        amount /= 1_000
    return str(count)


def moment(at_ms: int | None) -> str:
    """Return a time for people: local, to the second."""
    if at_ms is None:
        return "-"
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at_ms / 1_000))
    except (ValueError, OverflowError, OSError):
        return str(at_ms)
