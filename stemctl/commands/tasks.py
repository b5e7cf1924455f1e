"""tasks ls, show and retry, and why: single tasks, wherever they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from stem.errors import TaskNotFoundError
from stem.messages.names import check_name
from stemctl import complete, exits
from stemctl.options import Call, Command, Reason, command, group
from stemctl.output import duration, inline, moment

if TYPE_CHECKING:  # only for annotations: --help loads nothing of Stem that it does not print
    from stem.contracts import Broker, ListState
    from stem.messages.status import TaskStatus

UNFINISHED: Final[tuple[ListState, ...]] = ("running", "retrying", "queued", "scheduled", "held")
STATES: Final[tuple[ListState, ...]] = (*UNFINISHED, "dead", "succeeded", "failed", "revoked", "expired")
AT_ONCE: Final = 25
"""Tasks read at once with their results, of which each may be large."""
PAGE: Final = 500
"""Tasks in one step of the broker; how many were done is known after each."""
ROWS: Final = 1_000
"""Shown of what became of many."""

Id = Annotated[str, typer.Argument(metavar="ID", autocompletion=complete.task_ids)]
Ids = Annotated[list[str], typer.Argument(metavar="ID...", autocompletion=complete.task_ids)]
InQueue = Annotated[
    str | None, typer.Option("--queue", metavar="QUEUE", help="Only this queue.", autocompletion=complete.queues)
]
Limit = Annotated[int, typer.Option("--limit", metavar="N", min=1, max=1_000, help="How many at most.")]
Cursor = Annotated[
    str | None, typer.Option("--cursor", metavar="C", help="Go on where another call stopped (its `next`).")
]


def states(incomplete: str) -> list[str]:
    """Complete a state."""
    return [state for state in STATES if state.startswith(incomplete)]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    tasks = typer.Typer(help="Single tasks: list, show, run now.", callback=group, rich_markup_mode=None)
    tasks.command("ls", cls=Command)(ls)
    tasks.command("show", cls=Command)(show)
    tasks.command("retry", cls=Command)(retry)
    app.add_typer(tasks, name="tasks")
    app.command("why", cls=Command)(why)


@command
async def ls(
    call: Call,
    state: Annotated[
        str | None,
        typer.Option(
            "--state", metavar="STATE", help=", ".join(STATES) + "; else all unfinished.", autocompletion=states
        ),
    ] = None,
    queue: InQueue = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> int:
    """List tasks of a state, in the order they will run, or the newest first."""
    from stem.control.lookup import all_concealed

    if state is not None and state not in STATES:
        raise exits.usage(f"--state {state} is not a state", f"use one of {', '.join(STATES)}")
    if cursor is not None and state is None:
        raise exits.usage("--cursor goes with --state", "give the --state that the cursor came from")
    warnings: list[str] = []
    async with call.broker() as broker:
        if queue is not None:
            await known_queue(broker, queue)
        if state is not None:
            items, following, total = await listed(broker, state, queue=queue, cursor=cursor, limit=limit)
        else:
            following, total = None, None
            items, more = await _unfinished(broker, queue, limit)
            if more:
                warnings = [f"there may be more than these {len(items)}: use --limit, or --state and --cursor"]
        if call.out.as_json:
            items = await with_payloads(broker, items)
        items = await all_concealed(broker, items)

    def text() -> None:
        show_tasks(call, items)
        if following is not None:
            call.out.note(f"more: --cursor {following}")

    data = {"items": [task.to_plain() for task in items], "next": following, "total": total}
    return call.finish(data, text, warnings=warnings)


async def _unfinished(broker: Broker, queue: str | None, limit: int) -> tuple[list[TaskStatus], bool]:
    """Return tasks of all unfinished states, and whether there may be more of them."""
    found: dict[str, TaskStatus] = {}  # a task that moves on meanwhile is met twice
    for state in UNFINISHED:
        items, following, _ = await listed(broker, state, queue=queue, limit=limit - len(found))
        for task in items:
            found.setdefault(task.id, task)
        if following is not None or (len(found) >= limit and state != UNFINISHED[-1]):
            return list(found.values()), True
    return list(found.values()), False


@command
async def show(call: Call, task_id: Id) -> int:
    """Show all that is known of a task: state, timeline, arguments, error, result."""
    async with call.broker() as broker:
        data, status = await describe(broker, task_id)
    return call.finish(data, lambda: show_task(call, status, data["envelope"]))


@command
async def retry(call: Call, ids: Ids, reason: Reason = "") -> int:
    """Run waiting tasks now, and dead ones again."""
    for task_id in ids:
        check_name("task id", task_id)
    async with call.broker() as broker:
        if call.options.dry_run:
            statuses = await broker.statuses(ids, timeline=False)
            return finish_items(call, {one: _would(status) for one, status in zip(ids, statuses, strict=True)})
        async with call.controller(broker).recorded("retry", ids, reason=reason) as tally:
            outcomes: dict[str, str] = {}
            for start in range(0, len(ids), PAGE):
                part = await broker.retry_now(ids[start : start + PAGE])
                tally.add_all(part)
                outcomes |= part
    return finish_items(call, outcomes, warnings=tally.warnings)


def _would(status: TaskStatus | None) -> str:
    if status is None:
        return "unknown"
    if status.state in ("queued", "running"):
        return "already"
    if status.state.final and status.state != "failed":
        return "final"
    return "queued"


@command
async def why(call: Call, task_id: Id) -> int:
    """Say why a task is not running, or what became of it, and what to do."""
    from stem.control.why import why as ask

    async with call.broker() as broker:
        # A worker that does not answer must not hold up the explanation.
        found = await ask(broker, call.controller(broker, at_most_s=1.0), task_id)

    def text() -> None:
        call.out.line(found.verdict)
        for cause in found.causes[1:]:
            call.out.line(f"  also: {cause.text}")
        for cause in found.causes:
            if cause.fix:
                call.out.line(f"  fix ({cause.code}): {cause.fix}")

    problem = None if found.state is not None else exits.not_found("task", task_id, found.causes[0].fix).problem
    return call.finish(found.to_plain(), text, problem=problem)


# --------------------------------------------------------------------------------------------------- shared with others


async def known_queue(broker: Broker, queue: str) -> None:
    """Refuse a queue that nobody knows.

    Raises:
        CommandError: nothing was ever enqueued there and no worker takes it.
    """
    check_name("queue", queue)
    if await broker.census.queues([queue]):
        return
    if not any(queue in seen.heartbeat.queues for seen in await broker.presence.workers()):
        raise exits.not_found("queue", queue, "see `stemctl queues ls`")


async def listed(
    broker: Broker, state: ListState, *, queue: str | None, limit: int, cursor: str | None = None
) -> tuple[list[TaskStatus], str | None, int | None]:
    """Return up to `limit` tasks of one state, where to go on, and how many there are, as far as that is known."""
    found: dict[str, TaskStatus] = {}
    total: int | None = None
    while True:  # the broker has its own limit of a page
        page = await broker.census.tasks(state, queue=queue, cursor=cursor, limit=limit - len(found))
        if total is None:
            total = page.total
        for task in page.items:
            found.setdefault(task.id, task)
        cursor = page.next
        if cursor is None or len(found) >= limit:
            return list(found.values()), cursor, total


async def with_payloads(broker: Broker, items: list[TaskStatus]) -> list[TaskStatus]:
    """Return listed tasks with their results and meta, which a listing leaves out and JSON shows."""
    whole: list[TaskStatus] = []
    for start in range(0, len(items), AT_ONCE):
        part = items[start : start + AT_ONCE]
        for item, full in zip(part, await broker.statuses([one.id for one in part], timeline=False), strict=True):
            same = full is not None and full.state is item.state
            whole.append(replace(item, result=full.result, meta=full.meta) if full is not None and same else item)
    return whole


async def describe(broker: Broker, task_id: str) -> tuple[dict[str, Any], TaskStatus]:
    """Return a task with its timeline and envelope, as JSON shows it.

    Raises:
        TaskNotFoundError: there is no record of it.
    """
    from stem.control.lookup import look_up

    check_name("task id", task_id)
    status, request = await look_up(broker, task_id)
    if status is None:
        raise TaskNotFoundError(f"there is no task {task_id}")
    envelope: dict[str, Any] | None = None
    if request is not None:
        letter = request.envelope
        if letter is None:
            envelope = {"error": request.problem}
        else:
            envelope = {
                "args": letter.args,
                "headers": letter.headers,
                "meta": letter.meta,
                "options": letter.options,
                "delay_ms": letter.delay_ms,
                "eta_ms": letter.eta_ms,
                "expires_in_ms": letter.expires_in_ms,
                "expires_ms": letter.expires_ms,
                "produced_at_ms": letter.produced_at_ms,
                "root": letter.root,
                "parent": letter.parent,
            }
        envelope |= {"size_bytes": request.size_bytes, "signed": request.signed}
    return {**status.to_plain(), "envelope": envelope}, status


def show_tasks(call: Call, items: list[TaskStatus]) -> None:
    """Print tasks as a table."""
    if not items:
        call.out.note("no such tasks")
        return
    call.out.table(
        ["ID", "TASK", "QUEUE", "STATE", "PRIO", "ATTEMPT", "WORKER", "TIME", "ERROR"],
        [
            [
                task.id,
                task.task,
                task.queue,
                task.state.value,
                task.priority,
                task.attempt,
                task.worker,
                moment(task.finished_at_ms or task.started_at_ms or task.due_at_ms or task.enqueued_at_ms),
                "" if task.error is None else f"{task.error.type}: {task.error.message}",
            ]
            for task in items
        ],
        right=("PRIO", "ATTEMPT"),
    )


def show_task(call: Call, status: TaskStatus, envelope: dict[str, Any] | None) -> None:
    """Print one task."""
    rows: list[tuple[str, object]] = [
        ("id", status.id),
        ("task", status.task),
        ("queue", status.queue),
        ("state", status.state.value),
        ("priority", status.priority),
        ("attempt", status.attempt),
        ("crashes", status.crashes),
        ("worker", status.worker),
        ("enqueued", moment(status.enqueued_at_ms)),
        ("due", moment(status.due_at_ms)),
        ("started", moment(status.started_at_ms)),
        ("finished", moment(status.finished_at_ms)),
        ("expires", moment(status.expires_at_ms)),
        ("reason", status.reason),
    ]
    if envelope is not None:
        shown = ("args", "headers", "meta", "options", "root", "parent", "error")
        rows += [(name, inline(envelope[name], 4_000)) for name in shown if envelope.get(name)]
    if status.progress is not None:
        rows.append(("progress", inline(status.progress)))
    if status.succeeded:
        rows.append(("result", inline(status.result, 4_000)))
    call.out.fields([row for row in rows if row[1] not in ("", "-", None)])
    if status.error is not None:
        call.out.line()
        call.out.line(f"{status.error.type}: {status.error.message}")
        if status.error.traceback:
            call.out.block(status.error.traceback.rstrip())
    if status.timeline:
        call.out.line()
        start = status.timeline[0].at_ms
        call.out.table(
            ["AT", "AFTER", "EVENT", "WORKER", "ATTEMPT", "DETAIL"],
            [
                [moment(e.at_ms), duration(e.at_ms - start), e.event, e.worker, e.attempt, e.detail]
                for e in status.timeline
            ],
            right=("AFTER", "ATTEMPT"),
        )


def finish_items(call: Call, outcomes: dict[str, str], *, warnings: Sequence[str] = ()) -> int:
    """Print what became of each id and return the exit code.

    Args:
        outcomes: by id `queued`, `discarded`, `already`, or one that failed: `final`, `not-dead`, `duplicate`,
            `unknown`.
    """
    from stem.control.audit import REFUSED

    dry = call.options.dry_run
    items = [
        {
            "target": task_id,
            "worker": "",
            "stage": "" if dry or outcome in REFUSED else "applied",
            "changed": not dry and outcome in ("queued", "discarded"),
            "outcome": outcome,
            "error": REFUSED.get(outcome),
        }
        for task_id, outcome in outcomes.items()
    ]
    failed = [item for item in items if item["outcome"] in ("final", "not-dead", "duplicate")]
    unknown = [item for item in items if item["outcome"] == "unknown"]
    problem = None
    if failed:
        first = failed[0]
        problem = exits.Problem(exits.FAILED, "failed", f"{len(failed)} failed: {first['target']}: {first['error']}")
    elif unknown:
        names = ", ".join(str(item["target"]) for item in unknown[:5])
        problem = exits.not_found("task", names, "see `stemctl tasks ls` and `stemctl dlq ls`").problem

    def text() -> None:
        if items:
            rows = [[i["target"], i["outcome"], i["error"]] for i in items[:ROWS]]
            call.out.table(["ID", "OUTCOME", "ERROR"], rows)
        if len(items) > ROWS:
            call.out.warn(f"these are the first {ROWS} of {len(items)}: --json has all")
        if dry:
            call.out.note("dry run: nothing was changed")

    data = {
        "applied": sum(item["stage"] == "applied" for item in items),
        "failed": len(failed),
        "items": items,
        "dry_run": dry,
    }
    return call.finish(data, text, warnings=warnings, problem=problem)
