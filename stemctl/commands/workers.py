"""workers ls and show: the fleet by its heartbeats; asks nobody."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from stemctl import complete, exits
from stemctl.options import Call, Command, command, group
from stemctl.output import duration, moment, size

if TYPE_CHECKING:  # only for annotations: --help loads nothing of Stem that it does not print
    from stem.contracts import Seen


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    workers = typer.Typer(help="The workers, by their heartbeats.", callback=group, rich_markup_mode=None)
    workers.command("ls", cls=Command)(ls)
    workers.command("show", cls=Command)(show)
    app.add_typer(workers, name="workers")


def to_plain(seen: Seen) -> dict[str, Any]:
    """Return a worker as JSON shows it: its heartbeat, a diagnosis, and how old that is."""
    from stem.control.diagnose import diagnose

    return {**seen.heartbeat.to_plain(), "diagnosis": diagnose(seen), "age_ms": seen.age_ms}


@command
async def ls(
    call: Call,
    all_: Annotated[bool, typer.Option("--all", help="Also those that said goodbye within the hour.")] = False,
) -> int:
    """List the workers, lost ones too."""
    from stem.control.diagnose import diagnose

    async with call.broker() as broker:
        seen = [worker for worker in await broker.presence.workers() if all_ or not worker.stopped]

    def show() -> None:
        rows = []
        for worker in seen:
            beat = worker.heartbeat
            rows.append(
                [
                    beat.name,
                    diagnose(worker),
                    f"{beat.in_flight}/{beat.concurrency}"
                    + (f", {lost} lost" if (lost := beat.zombie_threads) else ""),
                    ",".join(beat.queues) + (f" (paused: {','.join(beat.paused)})" if beat.paused else ""),
                    beat.counters.get("succeeded", 0),
                    beat.counters.get("failed", 0),
                    f"{beat.cpu_percent:.0f}%",
                    size(beat.rss_bytes),
                    duration(worker.age_ms),
                    beat.id,
                ]
            )
        head = ["WORKER", "STATE", "BUSY", "QUEUES", "DONE", "FAILED", "CPU", "MEMORY", "BEAT", "ID"]
        if rows:
            call.out.table(head, rows, right=("BUSY", "DONE", "FAILED", "CPU", "MEMORY", "BEAT"))
        else:
            call.out.note("no worker is there; start one: stem-worker mypkg.tasks:app")

    return call.finish({"items": [to_plain(worker) for worker in seen], "next": None, "total": len(seen)}, show)


@command
async def show(
    call: Call,
    worker: Annotated[str, typer.Argument(metavar="WORKER", help="Id or name.", autocompletion=complete.workers)],
) -> int:
    """Show one worker: its heartbeat and what it runs."""
    from stem.control.diagnose import MEANING, diagnose
    from stem.control.target import select

    async with call.broker() as broker:
        known = await broker.presence.workers()
    found = [one for one in known if worker in (one.heartbeat.id, one.heartbeat.name)] or select(known, [worker])
    if not found:
        raise exits.not_found("worker", worker, "see `stemctl workers ls --all`")
    # Of several processes of one name the living one is meant, else the one that started last.
    seen = max(found, key=lambda one: (not one.stopped and not one.lost, one.heartbeat.started_at_ms))

    def text() -> None:
        beat = seen.heartbeat
        diagnosis = diagnose(seen)
        call.out.fields(
            [
                ("worker", beat.name),
                ("id", beat.id),
                ("state", f"{diagnosis}: {MEANING[diagnosis]}"),
                ("last beat", f"{duration(seen.age_ms)} ago"),
                ("started", moment(beat.started_at_ms)),
                ("host, pid", f"{beat.host}, {beat.pid}"),
                ("version", beat.version),
                ("queues", ", ".join(beat.queues)),
                ("paused", ", ".join(beat.paused)),
                ("in flight", f"{beat.in_flight} of {beat.concurrency}"),
                ("slots lost", f"{lost}, to handlers past their time limit" if (lost := beat.zombie_threads) else ""),
                ("work loop", f"ticked {duration(beat.loop_age_ms)} ago"),
                ("cpu, memory", f"{beat.cpu_percent:.0f}%, {size(beat.rss_bytes)}"),
                ("epoch", beat.epoch),
                ("broker", f"round trip {beat.rtt_ms:.1f}ms, clock offset {beat.clock_offset_ms}ms"),
                ("counters", ", ".join(f"{name} {count}" for name, count in beat.counters.items())),
            ]
        )
        if beat.running:
            call.out.line()
            rows = [
                [task.id, task.task, task.queue, task.attempt, duration(seen.at_ms - task.started_at_ms)]
                for task in beat.running
            ]
            call.out.table(["RUNNING", "TASK", "QUEUE", "ATTEMPT", "SINCE"], rows, right=("ATTEMPT", "SINCE"))

    return call.finish(to_plain(seen), text)
