"""`stemctl demo`: Stem at work in one command, on a server of its own."""

from __future__ import annotations

from typing import Annotated

import typer

from stem.streams import can_draw
from stemctl import exits
from stemctl.options import Call, Command, command

Headless = Annotated[bool, typer.Option("--headless", help="No dashboard: run for --seconds and print the summary.")]
Seconds = Annotated[
    float | None,
    typer.Option(
        "--seconds", min=1.0, max=86_400.0, help="How long to enqueue; 10 without a dashboard.", show_default=False
    ),
]
Workers = Annotated[int, typer.Option("--workers", min=1, max=32, help="Worker processes.")]
Rate = Annotated[
    float | None, typer.Option("--rate", min=1.0, max=10_000.0, help="Tasks per second.", show_default=False)
]
Keep = Annotated[bool, typer.Option("--keep", help="Leave the folder with ledgers and logs, and say where it is.")]


def register(app: typer.Typer) -> None:
    app.command("demo", cls=Command)(demo)


@command
async def demo(
    call: Call,
    headless: Headless = False,
    seconds: Seconds = None,
    workers: Workers = 3,
    rate: Rate = None,
    keep: Keep = False,
) -> int:
    """Show workers, load, failures and revokes on a private server, and kill one worker on the way.

    Needs nothing and leaves nothing behind. On a terminal it opens the dashboard; elsewhere, or with --headless, it
    prints a summary. `lost` and `duplicated` are computed from a ledger that producer and handlers write, not from what
    the server says; if either is not 0 the exit code is 1.
    """
    from stemctl.demo.run import DemoInterruptedError, Plan, show  # here: these load the producer and the controller

    dashboard = not (headless or call.out.as_json) and can_draw()
    plan = Plan(
        seconds=seconds if dashboard else seconds or 10.0,
        workers=workers,
        rate=rate or (80.0 if dashboard else 250.0),
        # Late enough that the dashboard is open, early enough that a short run sees the tasks run elsewhere.
        kill_after_s=10.0 if dashboard else (seconds or 10.0) * 0.3,
        dashboard=dashboard,
        keep=keep,
    )
    try:
        report = await show(plan, call.out.note)
    except DemoInterruptedError as error:
        raise exits.CommandError(exits.Problem(exits.INTERRUPTED, "interrupted", str(error))) from error
    data = report.to_plain()
    problem = None
    if report.interrupted:
        problem = exits.Problem(exits.INTERRUPTED, "interrupted", "interrupted before the end")
    if not report.verdict.clean:
        problem = exits.Problem(
            exits.FAILED,
            "ledger",
            f"the ledger does not add up: {report.verdict.lost} lost, {report.verdict.duplicated} duplicated",
            "run it with --keep and look at the ledgers and logs",
        )
    if report.folder is not None:
        call.out.note(f"ledgers and logs: {report.folder}")

    def summary() -> None:
        call.out.fields(list(data.items()))
        if report.verdict.clean:
            call.out.line()
            verdict = report.verdict
            call.out.line(
                "Nothing was lost and no end was recorded twice. "
                f"Workers killed: {verdict.killed_workers}; tasks started again elsewhere: {verdict.extra_starts}."
            )

    return call.finish(data, summary, problem=problem)
