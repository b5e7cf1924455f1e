"""worker start: the same as `stem-worker`, for those who have stemctl at hand."""

from __future__ import annotations

import os

import typer

from stemctl.options import group, options_of


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    worker = typer.Typer(help="Run a worker here.", callback=group, rich_markup_mode=None)
    worker.command(
        "start",
        help="Start a worker: all arguments are those of stem-worker (see `stem-worker --help`).",
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    )(start)
    app.add_typer(worker, name="worker")


def start(ctx: typer.Context) -> None:
    """Hand everything over to the worker's own command line."""
    from stem.worker.cli import main  # here: no other command needs a worker

    options = options_of(ctx)
    # Given before `worker start`, they are meant for it too.
    if options.url is not None:
        os.environ["STEM_BROKER_URL"] = options.url
    if options.namespace is not None:
        os.environ["STEM_NAMESPACE"] = options.namespace
    raise typer.Exit(main(list(ctx.args)))
