"""doctor: what is wrong here, and what to do about each of it."""

from __future__ import annotations

import typer

from stemctl import exits
from stemctl.options import Call, Command, command


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("doctor", cls=Command)(doctor)


@command
async def doctor(call: Call) -> int:
    """Say what is wrong with server, workers and queues, and how to mend it: exit 0 nothing, 1 something."""
    import stem
    from stem.control.checkup import examine

    limits = call.config().limits()
    async with call.broker() as broker:
        # A worker that does not answer must not hold up the rest.
        found = await examine(broker, call.controller(broker, at_most_s=2.0), limits=limits, version=stem.__version__)

    def text() -> None:
        for finding in found.findings:
            call.out.line(f"{finding.severity} {finding.code}: {finding.text}")
            call.out.line(f"  fix: {finding.fix}")
        for check, why in found.skipped.items():
            call.out.note(f"could not look at {check}: {why}")
        call.out.note(f"durability: {found.durability}")
        if not found.findings:
            call.out.note(f"nothing is wrong: {len(found.checked)} checks")

    problem = None
    if found.findings:
        first = found.findings[0]
        problem = exits.Problem(
            exits.FAILED, "findings", f"{len(found.findings)} findings, the first: {first.code}", "see `fix` of each"
        )
    return call.finish(found.to_plain(), text, problem=problem)
