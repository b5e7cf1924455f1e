"""events: what ended lately, or with --follow what happens now."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Annotated, Final

import typer

from stem.clock import boottime_s
from stemctl import exits
from stemctl.options import Call, Command, command
from stemctl.output import Output, inline, plain

if TYPE_CHECKING:  # only for annotations: --help loads nothing of Stem that it does not print
    from stem.contracts import Broker, FinalRow
    from stem.messages.event import Event

LEASE_S: Final = 10.0


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("events", cls=Command)(events)


@command
async def events(
    call: Call,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Show events as they happen.")] = False,
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", min=1, help="Stop after N (without --follow: 50).")
    ] = None,
    for_: Annotated[
        str | None, typer.Option("--for", metavar="DURATION", help="Stop following after this time.")
    ] = None,
) -> int:
    """Show the tasks that ended last, or with --follow everything that happens.

    With --follow, --json prints each event as one line of JSON; an error is the last line.
    """
    if for_ is not None and not follow:
        raise exits.usage("--for goes with --follow")
    for_s = None if for_ is None else call.seconds(for_, "--for")
    async with call.broker() as broker:
        if follow:
            await _follow(call, broker, limit, for_s)
            return exits.OK
        rows = await broker.census.history(min(limit or 50, 10_000))

    def text() -> None:
        if not rows:
            call.out.note("nothing has ended yet; --follow shows what happens now")
        for row in reversed(rows):
            _print(call.out, _of_row(row))

    data = {"items": [_of_row(row).to_plain() for row in rows], "next": None, "total": None}
    return call.finish(data, text)


async def _follow(call: Call, broker: Broker, limit: int | None, for_s: float | None) -> None:
    watcher = f"stemctl-{os.getpid()}-{os.urandom(4).hex()}"
    shown = 0
    end = None if for_s is None else time.monotonic() + for_s
    await broker.events.watch(watcher, for_ms=round(LEASE_S * 1000))
    renewed = boottime_s()
    try:
        cursor = await broker.events.tail()
        call.out.note("following; Ctrl-C ends it")
        while end is None or time.monotonic() < end:
            wait_s = 2.0 if end is None else min(2.0, max(0.01, end - time.monotonic()))
            batch = await broker.events.read(cursor, timeout_s=wait_s)
            cursor = batch.cursor
            if batch.missed:
                call.out.warn("some events were missed: this reader was more than a minute behind")
            for event in batch.events:
                if call.out.as_json:
                    call.out.json(plain(event.to_plain()))
                else:
                    _print(call.out, event, flush=True)
                shown += 1
                if limit is not None and shown >= limit:
                    return
            if boottime_s() - renewed > LEASE_S / 3:
                await broker.events.watch(watcher, for_ms=round(LEASE_S * 1000))
                before, renewed = renewed, boottime_s()
                if (lapsed_s := renewed - before - LEASE_S) > 0:
                    # We stood still, or were cut off: for a while nobody watched, and workers told nothing.
                    call.out.warn(f"events may have been missed: nobody watched for {lapsed_s:.0f} s")
    finally:
        await broker.events.unwatch(watcher)


def _of_row(row: FinalRow) -> Event:
    from stem.messages.event import Event

    detail: dict[str, object] = (
        {"duration_ms": max(0, row.finished_at_ms - row.started_at_ms)} if row.started_at_ms else {}
    )
    if row.error_type:
        detail["error"] = row.error_type
    return Event(
        kind=f"task.{row.state.value}",
        at_ms=row.finished_at_ms,
        worker=row.worker,
        seq=0,
        task_id=row.id,
        task=row.task,
        queue=row.queue,
        attempt=row.attempt,
        detail=detail,
    )


def _print(out: Output, event: Event, *, flush: bool = False) -> None:
    seconds, milliseconds = divmod(max(0, event.at_ms), 1000)
    clock = time.strftime("%H:%M:%S", time.localtime(min(seconds, 253_402_214_400)))
    parts = [f"{clock}.{milliseconds:03d}", f"{event.kind:<16}"]
    parts += [part for part in (event.task, event.task_id) if part]
    if event.queue:
        parts.append(f"queue={event.queue}")
    if event.attempt:
        parts.append(f"attempt={event.attempt}")
    if event.worker:
        parts.append(f"worker={event.worker}")
    parts += [
        f"{name}={value if isinstance(value, str) else inline(value, 80)}" for name, value in event.detail.items()
    ]
    out.line("  ".join(parts))
    if flush:
        out.flush()
