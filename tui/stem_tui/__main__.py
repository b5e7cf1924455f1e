"""`stem-tui`: reads the command line and starts the dashboard, or prints one look of it."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import getpass
import locale
import os
import platform
import secrets
import shutil
import socket
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import stem
from stem import startup
from stem.errors import ConfigError, StemError
from stem.streams import can_draw
from stem.text import clean, safe_url
from stem_tui import streams
from stem_tui.hangup import end_when_told, end_with_terminal

if TYPE_CHECKING:
    from stem.authority import ControlKeys
    from stem.config import StemConfig
    from stem.contracts import Broker
    from stem_tui.commands import Where
    from stem_tui.theme import Look

THEMES: Final = ("stem-dark", "stem-light", "stem-deut", "stem-contrast", "ansi", "mono")
SCREENS: Final = ("overview", "queues", "workers", "failures", "tasks")
_YES: Final = ("1", "true", "yes", "on")
_NO: Final = ("", "0", "false", "no", "off")


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = argparse.ArgumentParser(
        prog="stem-tui",
        description="The live dashboard of Stem: queues, workers, tasks, failures; and what to do about them.",
        epilog="Keys: ? shows them all. Without a terminal, or with TERM=dumb, it prints what --once prints.",
    )
    made.add_argument("--url", help="of the broker (default: STEM_BROKER_URL, else the embedded server)")
    made.add_argument("--namespace", help="default: STEM_NAMESPACE, else stem")
    access = made.add_mutually_exclusive_group()
    access.add_argument("--read-only", action="store_true", help="look only: nothing can be sent")
    access.add_argument("--write", action="store_true", help="with --production: allow changes")
    made.add_argument(
        "--production",
        action="store_true",
        help="people live on this: opens read-only, and every change asks one step more (also: STEM_TUI_PRODUCTION=1)",
    )
    made.add_argument(
        "--once", action="store_true", help="print one look and exit: 0; 69 without a broker, 5 where it refuses us"
    )
    made.add_argument("--format", choices=("text", "json", "jsonl"), default="text", help="of --once")
    made.add_argument("--screen", choices=SCREENS, default="overview", help="of --once as text: this part only")
    made.add_argument("--watch", type=_seconds, metavar="SECONDS", help="with --once: again and again")
    made.add_argument("--check", action="store_true", help="with --once: exit 1 when something is wrong")
    made.add_argument("--width", type=int, metavar="COLUMNS", help="of --once (default: the terminal's, or 100)")
    made.add_argument("--ascii", action="store_true", help="plain characters only")
    made.add_argument("--theme", choices=THEMES, help="colours (default: stem-dark; mono with NO_COLOR)")
    made.add_argument("--hz", type=_hertz, metavar="N", help="draw at most N times a second (default: 10; 4 over ssh)")
    made.add_argument("--no-mouse", action="store_true", help="leave the mouse to the terminal")
    said = f"stem-tui {stem.__version__}, Python {platform.python_version()}"
    made.add_argument("--version", action="version", version=said, help="say which version this is")
    return made


def _seconds(text: str) -> float:
    value = float(text)
    if not 0.1 <= value <= 86_400:
        raise argparse.ArgumentTypeError("give 0.1 to 86400 seconds")
    return value


def _hertz(text: str) -> float:
    value = float(text)
    if not 1 <= value <= 20:
        raise argparse.ArgumentTypeError("give 1 to 20")
    return value


def main(argv: Sequence[str] | None = None) -> int:
    """Run the dashboard; return the exit code."""
    startup.hurry()
    streams.prepare()
    options = parser().parse_args(argv)
    plain = options.once or not can_draw()
    from stem.authority import ControlKeys  # after the command line has been understood
    from stem.config import StemConfig

    try:
        config = StemConfig.from_environment(os.environ)
        production = options.production or _said("STEM_TUI_PRODUCTION")
        keys = ControlKeys.maybe(config.control)
        look = _look(options.theme, options.ascii or (plain and not streams.takes_all()))
        broker, reach = _connect(options.url, options.namespace, config)
    except StemError as error:
        from stem_tui.once import failure  # only now: who draws has no use for it

        streams.say(clean(error, 400))
        return failure(error)[0]
    with contextlib.suppress(KeyboardInterrupt):
        if plain:
            code = asyncio.run(_print(broker, options, look))
            if not options.once:
                streams.say("this is no terminal to draw on, so here is one look (--once)")
            return code
        end_with_terminal()
        return asyncio.run(_draw(broker, options, look, config.control_timeout_s, keys, production, reach))
    return 130


def _said(name: str) -> bool:
    """Return what a variable says; a word that is neither yes nor no is refused, not taken for a no."""
    value = os.environ.get(name, "").strip().lower()
    if value not in (*_YES, *_NO):
        raise ConfigError(f"{name}={clean(value, 40)}: use 1 or 0")
    return value in _YES


def _connect(url: str | None, namespace: str | None, config: StemConfig) -> tuple[Broker, Where]:
    """Return the broker, and how a command of a shell gets there: a password is left to the environment it came from,
    or to whoever gave it by hand."""
    from stem.adapters.connect import connect_broker, interactive, resolve_url  # loads the adapter's client
    from stem_tui.commands import Where

    for option, value in (("--url", url), ("--namespace", namespace)):
        if value is not None and not value.strip():  # the default would be another fleet than was meant
            raise ConfigError(f"{option} is empty: leave it out for the default")
    found = resolve_url(url or config.broker_url, interactive=interactive())
    broker = connect_broker(found, namespace=namespace or config.namespace, tls=config.tls)
    shown = safe_url(found)
    if "***" not in shown:
        shown = broker.url
    elif url is None:
        shown = ""
    return broker, Where(shown.replace("***", "PASSWORD"), broker.namespace)


def _look(theme: str | None, plain_characters: bool) -> Look:
    from stem_tui.theme import Look

    utf8 = "utf" in (locale.getpreferredencoding(False) or "").lower().replace("-", "")
    wanted = os.environ.get("STEM_TUI_THEME") or "stem-dark"
    if wanted not in THEMES:
        raise ConfigError(f"STEM_TUI_THEME={clean(wanted, 40)}: use one of {', '.join(THEMES)}")
    chosen = theme or ("mono" if os.environ.get("NO_COLOR") else wanted)
    return Look(chosen, plain_characters or not utf8)


async def _print(broker: Broker, options: argparse.Namespace, look: Look) -> int:
    from stem_tui import once

    width = options.width or shutil.get_terminal_size((100, 40)).columns
    try:
        return await once.run(
            broker,
            format=options.format,
            screen=options.screen,
            width=width,
            look=look,
            watch_s=options.watch,
            check=options.check,
        )
    finally:
        await broker.close()


async def _draw(
    broker: Broker,
    options: argparse.Namespace,
    look: Look,
    timeout_s: float,
    keys: ControlKeys | None,
    production: bool,
    reach: Where,
) -> int:
    # A picture waits for the next of so many moments a second; by itself Textual takes 60, which is late for a key.
    os.environ.setdefault("TEXTUAL_FPS", "120")
    # Textual takes a quarter of a second to import: only who draws pays for it.
    from stem.control.diagnose import diagnose
    from stem.observe.feed import Feed
    from stem.observe.state import ClusterState
    from stem_tui.app import StemTUI, default_hz
    from stem_tui.session import Session

    state = ClusterState(diagnose)
    feed = Feed(broker, state, watcher=f"tui-{socket.gethostname()[:30]}-{os.getpid()}-{secrets.token_hex(3)}")
    session = Session(
        state=state,
        feed=feed,
        url=broker.url,
        namespace=broker.namespace,
        reach=reach,
        look=look,
        read_only=options.read_only or (production and not options.write),
        production=production,
        hz=options.hz or default_hz(),
    )
    app = StemTUI(session, broker, actor=_actor(), timeout_s=timeout_s, keys=keys)
    for name in ("COLUMNS", "LINES"):
        # Where a shell exports them, they say how large the terminal was; it is asked for how large it is.
        os.environ.pop(name, None)
    startup.settle(for_others=False)
    end_when_told(app.exit)
    try:
        code = await app.run_async(mouse=not options.no_mouse)
    finally:
        await broker.close()
    return app.return_code or code or 0


def _actor() -> str:
    """Return who is asking: kept with what a command stores."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError, ImportError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"[:200]


if __name__ == "__main__":
    sys.exit(main())
