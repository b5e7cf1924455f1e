"""The options that every command takes, before or after its name, and the connection that they lead to."""

from __future__ import annotations

import inspect
import math
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from typer.core import TyperCommand

from stem.streams import on_terminal
from stem.text import clean
from stemctl import exits
from stemctl.output import CannotWriteError, Output

if TYPE_CHECKING:  # only for annotations: nothing of Stem is loaded for --help
    from stem.config import StemConfig
    from stem.contracts import Broker
    from stem.control.controller import Controller

META: Final = "stemctl.options"


def _not_empty(value: str | None) -> str | None:
    """Refuse an option whose variable was empty: the default would be another fleet than was meant."""
    if value is not None and not value.strip():
        raise typer.BadParameter("it is empty; leave the option out for the default")
    return value


def _text(name: str, metavar: str, text: str) -> Any:
    return typer.Option(name, metavar=metavar, help=text, show_default=False, callback=_not_empty)


Url = Annotated[str | None, _text("--url", "URL", "The broker; else STEM_BROKER_URL.")]
Namespace = Annotated[str | None, _text("--namespace", "NAME", "Else STEM_NAMESPACE, else stem.")]
Timeout = Annotated[str | None, _text("--timeout", "DURATION", "How long to wait for workers, such as 5s.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask before something that hits everything.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would happen, change nothing.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No notes on stderr.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]

Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Kept with what is stored.", show_default=False)]
"""Of every command that changes something; that it has this is how `command` tells one."""

COMMON: Final[dict[str, tuple[Any, Any]]] = {
    "url": (Url, None),
    "namespace": (Namespace, None),
    "timeout": (Timeout, None),
    "json": (Json, False),
    "yes": (Yes, False),
    "dry_run": (DryRun, False),
    "quiet": (Quiet, False),
    "debug": (Debug, False),
}


@dataclass(slots=True, kw_only=True)
class Options:
    """What was given of the common options, on all levels together."""

    url: str | None = None
    namespace: str | None = None
    timeout: str | None = None
    json: bool = False
    yes: bool = False
    dry_run: bool = False
    quiet: bool = False
    debug: bool = False

    def take(self, given: dict[str, Any]) -> None:
        """Add what one level was given; the level nearer to the command wins."""
        for name in COMMON:
            value = given.pop(name)
            if value:
                setattr(self, name, value)


def options_of(context: typer.Context) -> Options:
    """Return the options of this run, shared by all levels of the command line."""
    found = context.meta.setdefault(META, Options())
    assert isinstance(found, Options)
    return found


@dataclass(slots=True)
class Call:
    """One run of one command: its options, where it writes, and its way to the broker.

    Attributes:
        if_interrupted: what to say should it be interrupted now; None for nothing but the code.
    """

    options: Options
    out: Output
    if_interrupted: exits.Problem | None = None

    # ----------------------------------------------------------------------------------------------------- the broker

    def config(self) -> StemConfig:
        """Return the settings of the environment."""
        from stem.config import StemConfig  # here: --help needs no settings

        return StemConfig.from_environment()

    def timeout_s(self) -> float:
        """Return how long workers are waited for."""
        if self.options.timeout is None:
            return self.config().control_timeout_s
        return self.seconds(self.options.timeout, "--timeout")

    def seconds(self, text: str, name: str) -> float:
        """Return the seconds of a duration given as an option.

        Raises:
            ConfigError: it is not one.
        """
        from stem.config import parse_duration  # here: --help needs no settings

        return parse_duration(text, name=name)

    @asynccontextmanager
    async def broker(self) -> AsyncIterator[Broker]:
        """Connect to the broker that the options and the environment name.

        Raises:
            ConfigError: no URL is known, or one that cannot be used.
        """
        from stem.adapters.connect import connect_broker, interactive, resolve_url  # here: these load the Redis client

        self.out.secrets += secrets_of(self.options.url or os.environ.get("STEM_BROKER_URL", ""))
        config = self.config()
        url = resolve_url(self.options.url, interactive=interactive())
        broker = connect_broker(
            url, namespace=self.options.namespace or config.namespace, limits=config.limits(), tls=config.tls
        )
        try:
            yield broker
        finally:
            await broker.close()

    def controller(self, broker: Broker, *, at_most_s: float = math.inf) -> Controller:
        """Return a controller that acts as this user, and signs with the key of the environment if there is one.

        Args:
            at_most_s: workers are not waited for longer, whatever the options say.

        Raises:
            ConfigError: that key cannot be used.
        """
        from stem.authority import ControlKeys
        from stem.control.controller import Controller

        keys = ControlKeys.maybe(self.config().control)
        return Controller(broker, actor=actor(), timeout_s=min(at_most_s, self.timeout_s()), keys=keys)

    # ------------------------------------------------------------------------------------------------------ the answer

    def finish(
        self,
        data: object,
        show: Callable[[], None],
        *,
        warnings: Sequence[str] = (),
        problem: exits.Problem | None = None,
    ) -> int:
        """Print the outcome as asked for and return the exit code."""
        try:
            if self.out.as_json:
                self.out.envelope(data, warnings, problem)
            else:
                show()
        except BrokenPipeError:
            if problem is None:
                raise
        except CannotWriteError:
            if problem is not None:
                self.out.problem(problem)
            raise
        for warning in warnings:
            self.out.warn(warning)
        if problem is None:
            return exits.OK
        self.out.problem(problem)
        return problem.exit

    def confirm(self, question: str) -> None:
        """Ask before something that hits everything.

        Raises:
            CommandError: there is nobody to ask and no --yes, or the answer was no.
        """
        if self.options.yes or self.options.dry_run:
            return
        if not on_terminal(sys.stdin, sys.stderr):
            raise exits.CommandError(
                exits.Problem(exits.REFUSED, "needs-yes", f"not without confirmation: {question}", "add --yes")
            )
        # A question names what others have stored.
        if _asked(f"{clean(self.out.hide(question), 2_000)} [y/N] ").strip().lower() not in ("y", "yes"):
            raise exits.CommandError(exits.Problem(exits.REFUSED, "declined", "nothing was changed"))


def _asked(question: str) -> str:
    """Return what is typed at the terminal; the first Ctrl-C ends it."""
    import signal  # here: few commands ask

    # The event loop's own handler would only make a note of the first Ctrl-C, for a loop that stands still here.
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        sys.stderr.write(question)
        sys.stderr.flush()
        return sys.stdin.readline()
    except KeyboardInterrupt:
        sys.stderr.write("\n")  # the shell's prompt is not to stand behind the question
        raise
    finally:
        signal.signal(signal.SIGINT, before)


def actor() -> str:
    """Return who is asking, for the audit: user@host."""
    import getpass  # here, with socket: only those who change something need a name
    import socket

    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container may run under a number that has no name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def secrets_of(url: str) -> list[str]:
    """Return the parts of a URL that must not be shown: its password, as it is and decoded."""
    from urllib.parse import unquote

    address = url.partition("://")[2].rpartition("@")[0]
    password = address.partition(":")[2]
    return [password, unquote(password)] if password else []


class Command(TyperCommand):
    """A command whose help lists the common options apart from its own."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        own: list[tuple[str, str]] = []
        common: list[tuple[str, str]] = []
        arguments: list[tuple[str, str]] = []
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is None:
                continue
            if param.param_type_name == "argument":
                arguments.append(record)
            else:
                (common if param.name in COMMON else own).append(record)
        for title, records in (("Arguments", arguments), ("Options", own), ("Common options", common)):
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


def command(function: Callable[..., Awaitable[int]]) -> Callable[..., None]:
    """Turn `async def f(call, …)` into a command that also takes the common options and ends with the code returned."""
    signature = inspect.signature(function, eval_str=True)
    changes = "reason" in signature.parameters
    own = [parameter for name, parameter in signature.parameters.items() if name != "call"]
    common = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (annotation, default) in COMMON.items()
    ]
    context = inspect.Parameter("ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    own = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]

    @wraps(function)
    def run(ctx: typer.Context, **given: Any) -> None:
        options = options_of(ctx)
        options.take(given)
        out = Output(name_of(ctx), as_json=options.json, quiet=options.quiet)
        call = Call(options, out)
        import asyncio  # here: --help needs no event loop

        try:
            code = asyncio.run(_awaited(function(call, **given)))
        except (BrokenPipeError, CannotWriteError):
            raise
        except KeyboardInterrupt:
            code = out.interrupted(call.if_interrupted)
        except Exception as error:  # the border: whatever it is, it is said in one line
            code = out.failed(error, debug=options.debug, changing=changes and not options.dry_run)
        raise typer.Exit(code)

    run.__signature__ = signature.replace(  # type: ignore[attr-defined]  # what Typer reads the options from
        parameters=[context, *own, *common], return_annotation=None
    )
    run.__annotations__ = {p.name: p.annotation for p in (context, *own, *common)}
    return run


async def _awaited(outcome: Awaitable[int]) -> int:
    return await outcome


def group(ctx: typer.Context, **given: Any) -> None:
    """Take the common options that stand before a sub-command."""
    options_of(ctx).take(given)


def root(ctx: typer.Context, **given: Any) -> None:
    """Take the options that stand before everything else."""
    given.pop("version")  # has ended the program if it was given
    options_of(ctx).take(given)


def _say_version(wanted: bool) -> None:
    if wanted:
        import platform  # here: needed for this alone

        import stem

        typer.echo(f"stemctl {stem.__version__}, Python {platform.python_version()}")
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", help="Say which version this is.", callback=_say_version, is_eager=True)
]


def _takes(callback: Any, options: dict[str, tuple[Any, Any]]) -> None:
    """Let Typer see these options of a callback that takes them by keyword, as in `command`."""
    callback.__signature__ = inspect.Signature(
        [
            inspect.Parameter("ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context),
            *(
                inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
                for name, (annotation, default) in options.items()
            ),
        ]
    )
    callback.__annotations__ = {
        "ctx": typer.Context,
        **{name: annotation for name, (annotation, _) in options.items()},
    }


_takes(group, COMMON)
_takes(root, COMMON | {"version": (Version, False)})


def name_of(ctx: typer.Context) -> str:
    """Return the command's name as it was typed, without the program's."""
    return ctx.command_path.partition(" ")[2]
