"""The program: finds the module of the command that was typed, runs it, and turns every error into one line.

Importing it loads Typer and next to nothing of Stem, so that --help and completion stay quick.
"""

from __future__ import annotations

import codecs
import errno
import importlib
import io
import os
import sys
from collections.abc import Sequence
from typing import Any, Final, TextIO

import typer
from typer.core import TyperGroup

from stem import startup
from stem.streams import fill_gaps, give_up
from stemctl.options import root

SECTIONS: Final[dict[str, dict[str, str]]] = {
    "See": {
        "ping": "ask",
        "inspect": "ask",
        "stats": "ask",
        "workers": "workers",
        "queues": "queues",
        "tasks": "tasks",
        "why": "tasks",
        "events": "events",
        "audit": "audit",
        "health": "health",
        "doctor": "doctor",
    },
    "Steer": {
        "revoke": "steer",
        "pause": "steer",
        "resume": "steer",
        "drain": "steer",
        "undrain": "steer",
        "shutdown": "steer",
        "dlq": "dlq",
    },
    "Work": {"enqueue": "produce", "result": "produce"},
    "Run": {"worker": "worker", "demo": "demo", "embedded": "embedded", "acl": "acl"},
}
"""Commands in the order of the help, each with the module of `stemctl.commands` that registers it."""

MODULES: Final = {name: module for section in SECTIONS.values() for name, module in section.items()}

# A usage error of Typer's own copy of Click; this is the public name of one of them.
_ClickError: Final = typer.BadParameter.__mro__[2]

_UNWRITTEN: Final = frozenset({errno.EBADF, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ENOSPC})


class Program(TyperGroup):
    """The top of the program; its help shows the commands in sections."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        width = max(len(name) for name in MODULES)
        for title, names in SECTIONS.items():
            rows = []
            for name in names:
                found = self.get_command(ctx, name)
                if found is not None:
                    rows.append((f"{name:<{width}}", found.get_short_help_str(formatter.width - width - 6)))
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


def build(words: Sequence[str]) -> typer.Typer:
    """Return the program with the commands that `words` may mean; with all of them if none is among the words."""
    app = typer.Typer(
        name="stemctl",
        cls=Program,
        callback=root,
        help="See and steer Stem's workers, queues and tasks. Needs only the broker's URL.",
        epilog="Durations are 500ms 5s 10m 2h 1d. Exit codes: 0 all applied, 1 some failed, 2 usage, 3 nothing "
        "matched, 4 some did not answer, 5 refused, 69 broker unreachable, 124 --wait ran out, 130 interrupted.",
        no_args_is_help=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    wanted = {MODULES[word] for word in words if word in MODULES} or set(MODULES.values())
    for module in dict.fromkeys(MODULES.values()):
        if module in wanted:
            importlib.import_module(f"stemctl.commands.{module}").register(app)
    return app


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; never raises."""
    startup.hurry()
    fill_gaps()
    _escape_the_rest()
    arguments = list(sys.argv[1:] if argv is None else argv)
    code = 0
    try:
        code = _run(arguments)
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read this has seen enough (`stemctl tasks ls | head`); a problem stays one all the same.
        give_up(sys.stdout)
    except OSError as error:  # all others are said where they come from
        return _cannot_write(error, code)
    finally:
        _let_go(sys.stderr)
    return code


def _escape_the_rest() -> None:
    """Let no text fail at an encoding that lacks its characters: they are written as escapes, the ellipsis as dots."""

    def escaped(error: UnicodeError) -> tuple[str | bytes, int]:
        if not isinstance(error, UnicodeEncodeError):
            raise error
        lacking = error.object[error.start : error.end].split("…")
        return "...".join(part.encode("ascii", "backslashreplace").decode() for part in lacking), error.end

    codecs.register_error("stemctl", escaped)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="stemctl")


def _let_go(stream: TextIO | None) -> None:
    try:
        if stream is not None:
            stream.flush()
    except OSError:
        give_up(stream)


def _cannot_write(error: OSError, code: int) -> int:
    """Say that stdout takes nothing, which undoes nothing; return the exit code of a command that had this one."""
    from stemctl import exits  # here, as below
    from stemctl.output import talk

    give_up(sys.stdout)
    talk(f"stemctl: cannot write the answer: {error.strerror or error}; what was done stays done")
    return code or exits.FAILED


def _run(arguments: list[str]) -> int:
    completing = os.environ.get("_STEMCTL_COMPLETE")
    typed = (
        os.environ.get("COMP_WORDS", os.environ.get("_TYPER_COMPLETE_ARGS", "")).split() if completing else arguments
    )
    if not arguments and not completing:
        arguments = ["--help"]
    try:
        ended = build(typed)(args=arguments, prog_name="stemctl", standalone_mode=False)
    except KeyboardInterrupt:
        return 130
    except SystemExit as end:  # how completion ends, the worker's own command line, and Typer when a pipe breaks
        if isinstance(end.__context__, BrokenPipeError):
            raise end.__context__ from None
        return end.code if isinstance(end.code, int) else int(bool(end.code))
    except Exception as error:  # the border: whatever it is, it is said in one line
        return _report(error, arguments)
    return ended if isinstance(ended, int) else 0


def _report(error: Exception, arguments: Sequence[str]) -> int:
    """Say an error that no command had under its own roof: wrong usage, and what `worker` and `demo` let out."""
    from stemctl import exits  # here: these load Stem's errors and text, which --help does not need
    from stemctl.output import CannotWriteError, Output

    if isinstance(error, BrokenPipeError | CannotWriteError):
        raise error
    if isinstance(error, OSError) and error.errno in _UNWRITTEN and "worker" not in arguments:
        raise CannotWriteError(error)  # printing the help is all that is done outside of commands
    if isinstance(error, typer.Abort):
        return exits.INTERRUPTED
    if type(error).__name__ == "NoArgsIsHelpError":  # its message is the help
        sys.stderr.write(f"{error}\n")
        return exits.USAGE
    name = next((word for word in arguments if word in MODULES), "")
    if isinstance(error, _ClickError):
        context = getattr(error, "ctx", None)
        path = context.command_path if context is not None else "stemctl"
        name = path.partition(" ")[2]
        message = " ".join(str(getattr(error, "format_message", error.__str__)()).split()).rstrip(".")
        error = exits.usage(message[:1].lower() + message[1:], f"see `{path} --help`")
    out = Output(name, as_json="--json" in arguments, quiet=False)
    return out.failed(error, debug="--debug" in arguments)
