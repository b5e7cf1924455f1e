"""audit ls: who asked for what, and what came of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from stemctl.commands.tasks import Cursor, Limit
from stemctl.options import Call, Command, command, group
from stemctl.output import moment

if TYPE_CHECKING:  # only for annotations: --help loads nothing of Stem that it does not print
    from stem.contracts import AuditRow

Verb = Annotated[
    str | None,
    typer.Option("--verb", metavar="VERB", help="Only this, such as pause or purge.", show_default=False),
]
Actor = Annotated[
    str | None,
    typer.Option("--actor", metavar="WHO", help="Only of this one, or a glob such as 'ada@*'.", show_default=False),
]
Target = Annotated[
    str | None,
    typer.Option(
        "--target",
        metavar="NAME",
        help="Only what named this queue, task or worker id, or may have among many; or a glob.",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    audit = typer.Typer(help="Who asked for what, and what came of it.", callback=group, rich_markup_mode=None)
    audit.command("ls", cls=Command)(ls)
    app.add_typer(audit, name="audit")


def to_plain(row: AuditRow) -> dict[str, Any]:
    """Return a row as JSON shows it."""
    outcome = row.outcome
    return {
        "id": row.id,
        "at_ms": row.at_ms,
        "verb": row.verb,
        "actor": row.actor,
        "reason": row.reason,
        "kind": row.kind,
        "option": row.option,
        "targets": list(row.targets),
        "count": row.count,
        "epoch": row.epoch,
        "command_id": row.command_id,
        "stored": dict(row.stored),
        "outcome": None
        if outcome is None
        else {
            "verdict": outcome.verdict,
            "at_ms": row.ended_at_ms,
            "counts": dict(outcome.counts),
            "expected": outcome.expected,
            "applied": outcome.applied,
            "failed": outcome.failed,
            "silent": list(outcome.silent),
            "items": [
                {"target": item.target, "outcome": item.outcome, "error": item.error or None} for item in outcome.items
            ],
        },
    }


@command
async def ls(
    call: Call,
    verb: Verb = None,
    actor: Actor = None,
    target: Target = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> int:
    """List what was commanded, newest first: by whom, on what, why, and how it ended.

    An outcome "not told" means that whoever gave the command ended before it could say how it went.
    """
    from stem.control.audit import asked, summary, targets_of

    async with call.broker() as broker:
        page = await broker.census.audit(verb=verb, actor=actor, target=target, cursor=cursor, limit=limit)

    def text() -> None:
        if not page.items:
            call.out.note("there is no such row" if verb or actor or target else "nothing was commanded yet")
            return
        call.out.table(
            ["AT", "WHO", "VERB", "TARGETS", "OUTCOME", "REASON"],
            [
                [moment(row.at_ms), row.actor, asked(row), targets_of(row), summary(row), row.reason]
                for row in page.items
            ],
        )
        if page.next is not None:
            call.out.note(f"more: --cursor {page.next}")

    data = {"items": [to_plain(row) for row in page.items], "next": page.next, "total": page.total}
    return call.finish(data, text)
