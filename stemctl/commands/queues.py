"""queues ls, show and purge."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from stem.messages.names import check_name
from stemctl import complete, exits
from stemctl.options import Call, Command, Reason, command, group
from stemctl.output import duration, moment

if TYPE_CHECKING:  # only for annotations: --help loads nothing of Stem that it does not print
    from stem.contracts import Pause, QueueRow

PURGED_AT_ONCE: Final = 500
QueueArgument = Annotated[str, typer.Argument(metavar="QUEUE", autocompletion=complete.queues)]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    queues = typer.Typer(help="The queues: what waits, runs and died in each.", callback=group, rich_markup_mode=None)
    queues.command("ls", cls=Command)(ls)
    queues.command("show", cls=Command)(show)
    queues.command("purge", cls=Command)(purge)
    app.add_typer(queues, name="queues")


def to_plain(row: QueueRow) -> dict[str, Any]:
    """Return a queue as JSON shows it."""
    pause = row.pause
    return {
        "name": row.name,
        "ready": row.ready,
        "delayed": row.delayed,
        "retrying": row.retrying,
        "held": row.held,
        "in_flight": row.in_flight,
        "dead": row.dead,
        "oldest_ms": row.oldest_ms,
        "paused": pause is not None,
        "pause": None
        if pause is None
        else {"actor": pause.actor, "reason": pause.reason, "at_ms": pause.at_ms, "until_ms": pause.until_ms},
        "consumers": row.consumers,
        "enqueued_total": row.enqueued_total,
    }


@command
async def ls(call: Call) -> int:
    """List the queues with what waits, runs and died in each."""
    async with call.broker() as broker:
        rows = await broker.census.queues()

    def text() -> None:
        if not rows:
            call.out.note("no queue is known yet: nothing was enqueued and no worker was here")
            return
        head = ["QUEUE", "READY", "DELAYED", "RETRYING", "HELD", "RUNNING", "DEAD", "OLDEST", "WORKERS", "PAUSED"]
        call.out.table(
            head,
            [
                [
                    row.name,
                    row.ready,
                    row.delayed,
                    row.retrying,
                    row.held,
                    row.in_flight,
                    row.dead,
                    duration(row.oldest_ms),
                    row.consumers,
                    "paused" if row.pause else "no",
                ]
                for row in rows
            ],
            right=head[1:9],
        )

    return call.finish({"items": [to_plain(row) for row in rows], "next": None, "total": len(rows)}, text)


@command
async def show(call: Call, queue: QueueArgument) -> int:
    """Show one queue, its pause, and who takes from it."""
    from stem.control.diagnose import diagnose

    check_name("queue", queue)
    async with call.broker() as broker:
        rows = await broker.census.queues([queue])
        if not rows:
            raise exits.not_found("queue", queue, "see `stemctl queues ls`")
        workers = [one for one in await broker.presence.workers() if queue in one.heartbeat.queues and not one.stopped]
    row = rows[0]
    takers = [{"id": one.heartbeat.id, "name": one.heartbeat.name, "diagnosis": diagnose(one)} for one in workers]

    def text() -> None:
        call.out.fields(
            [
                ("queue", row.name),
                ("ready", row.ready),
                ("oldest", duration(row.oldest_ms)),
                ("delayed", row.delayed),
                ("retrying", row.retrying),
                ("held", row.held),
                ("running", row.in_flight),
                ("dead", row.dead),
                ("enqueued", row.enqueued_total),
                ("paused", "no" if row.pause is None else pause_text(row.pause)),
                ("workers", ", ".join(f"{one['name']} ({one['diagnosis']})" for one in takers)),
            ]
        )

    return call.finish({**to_plain(row), "workers": takers}, text)


@command
async def purge(call: Call, queue: QueueArgument, reason: Reason = "") -> int:
    """Remove everything that waits in a queue (it becomes revoked); what runs goes on. Asks first."""
    check_name("queue", queue)
    async with call.broker() as broker:
        rows = await broker.census.queues([queue])
        if not rows:
            raise exits.not_found("queue", queue, "see `stemctl queues ls`")
        waiting = rows[0].ready + rows[0].delayed + rows[0].retrying + rows[0].held
        gone, warnings = waiting, []
        if not call.options.dry_run:
            if waiting:
                call.confirm(f"remove the {waiting} tasks that wait in queue {queue}? This cannot be undone.")
            async with call.controller(broker).recorded("purge", [queue], kind="queue", reason=reason) as tally:
                # No more than was agreed to: what has come since is another matter, and may come faster than it goes.
                while (left := waiting - tally.counts["purged"]) > 0:
                    removed = await broker.purge(queue, "waiting", limit=min(left, PURGED_AT_ONCE))
                    if not removed:
                        break
                    tally.add("purged", removed)
            gone, warnings = tally.counts["purged"], tally.warnings

    def text() -> None:
        would = "would remove" if call.options.dry_run else "removed"
        call.out.line(f"{would} {gone} waiting tasks of queue {queue}")

    return call.finish({"queue": queue, "purged": gone, "dry_run": call.options.dry_run}, text, warnings=warnings)


def pause_text(pause: Pause) -> str:
    """Return who paused something, since when, until when and why."""
    who = f"by {pause.actor} " if pause.actor else ""
    until = f", until {moment(pause.until_ms)}" if pause.until_ms else ""
    why = f", because: {pause.reason}" if pause.reason else ""
    return f"{who}since {moment(pause.at_ms)}{until}{why}"
