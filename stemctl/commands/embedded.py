"""`stemctl embedded`: the server that Stem brings along. Talks to no broker; starts and stops the process."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stem.streams import on_terminal
from stemctl import exits
from stemctl.options import Call, Command, command, group

if TYPE_CHECKING:  # only for annotations
    from stem.adapters.embedded import EmbeddedStatus

Folder = Annotated[
    Path | None,
    typer.Option(
        "--folder",
        metavar="PATH",
        help="The folder with its files; else the nearest .stem upwards, beside pyproject.toml or .git, or here.",
        show_default=False,
    ),
]


def register(app: typer.Typer) -> None:
    embedded = typer.Typer(
        help="Start, stop and look at the server that Stem brings along.", callback=group, no_args_is_help=True
    )
    embedded.command("start", cls=Command)(start)
    embedded.command("stop", cls=Command)(stop)
    embedded.command("status", cls=Command)(status)
    app.add_typer(embedded, name="embedded")


@command
async def start(call: Call, folder: Folder = None) -> int:
    """Start it and keep it running, also without users, until `stemctl embedded stop`."""
    from stem.adapters.embedded import EmbeddedServer  # here: --help starts nothing

    if call.options.dry_run:
        return _show(call, await asyncio.to_thread(EmbeddedServer.status, folder), dry_run=True)
    return _show(call, await asyncio.to_thread(EmbeddedServer.start, folder))


@command
async def status(call: Call, folder: Folder = None) -> int:
    """Say whether it runs, where, and who uses it. Exit code 3 when it does not run."""
    from stem.adapters.embedded import EmbeddedServer

    found = await asyncio.to_thread(EmbeddedServer.status, folder)
    problem = None
    if not found.running:
        problem = exits.Problem(
            exits.NOTHING, "not-running", f"no server runs in {found.folder}", "start one: stemctl embedded start"
        )
    return _show(call, found, problem=problem)


@command
async def stop(call: Call, folder: Folder = None) -> int:
    """Stop it, also one that a killed process left behind. What it stored stays."""
    from stem.adapters.embedded import EmbeddedServer

    found = await asyncio.to_thread(EmbeddedServer.status, folder)
    outcome = "would-stop" if call.options.dry_run and found.running else "not-running"
    if not call.options.dry_run:
        outcome = await asyncio.to_thread(EmbeddedServer.stop, folder, force=call.options.yes)
        if outcome == "in-use":
            if not on_terminal(sys.stdin, sys.stderr):
                problem = exits.Problem(
                    exits.REFUSED, "in-use", f"processes use the server in {found.folder}", "add --yes"
                )
                raise exits.CommandError(problem)
            call.confirm(f"Processes use the server in {found.folder}. Stop it under them?")
            outcome = await asyncio.to_thread(EmbeddedServer.stop, folder, force=True)
    data = {"folder": str(found.folder), "outcome": outcome, "dry_run": call.options.dry_run}
    words = {
        "stopped": "stopped",
        "would-stop": "would be stopped",
        "not-running": "was not running",
    }
    return call.finish(data, lambda: call.out.line(f"the server in {found.folder} {words[outcome]}"))


def _show(call: Call, found: EmbeddedStatus, *, problem: exits.Problem | None = None, dry_run: bool = False) -> int:
    data: dict[str, Any] = {
        "folder": str(found.folder),
        "running": found.running,
        "answering": found.answering,
        "in_use": found.in_use,
        "kept": found.kept,
        "pid": found.pid,
        "url": found.url,
        "version": found.version,
        "uptime_s": found.uptime_s,
        "clients": found.clients,
    }
    if dry_run:
        data["dry_run"] = True
    return call.finish(data, lambda: call.out.fields(list(data.items())), problem=problem)
