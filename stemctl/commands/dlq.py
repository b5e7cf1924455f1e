"""dlq ls, show, replay and purge: tasks that will not run again by themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from stem.messages.names import check_name
from stemctl import complete, exits
from stemctl.commands.tasks import (
    PAGE,
    Cursor,
    Id,
    InQueue,
    Limit,
    describe,
    finish_items,
    known_queue,
    listed,
    show_task,
    show_tasks,
    with_payloads,
)
from stemctl.options import Call, Command, Reason, command, group

if TYPE_CHECKING:  # only for annotations: --help loads nothing of Stem that it does not print
    from stem.contracts import Broker
    from stem.messages.status import TaskStatus

SAMPLES: Final = 5

SomeIds = Annotated[list[str] | None, typer.Argument(metavar="[ID]...", autocompletion=complete.task_ids)]
OfTask = Annotated[
    str | None,
    typer.Option("--task", metavar="TASK", help="All dead letters of this name.", autocompletion=complete.tasks),
]
All = Annotated[bool, typer.Option("--all", help="All dead letters (of --queue, if given).")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    dlq = typer.Typer(help="Dead letters: list, show, replay, purge.", callback=group, rich_markup_mode=None)
    dlq.command("ls", cls=Command)(ls)
    dlq.command("show", cls=Command)(show)
    dlq.command("replay", cls=Command)(replay)
    dlq.command("purge", cls=Command)(purge)
    app.add_typer(dlq, name="dlq")


@command
async def ls(call: Call, queue: InQueue = None, limit: Limit = 50, cursor: Cursor = None) -> int:
    """List dead letters, newest first."""
    from stem.control.lookup import all_concealed

    async with call.broker() as broker:
        if queue is not None:
            await known_queue(broker, queue)
        found, following, total = await listed(broker, "dead", queue=queue, cursor=cursor, limit=limit)
        items = await all_concealed(broker, await with_payloads(broker, found) if call.out.as_json else found)

    def text() -> None:
        show_tasks(call, items)
        if following is not None:
            call.out.note(f"more: --cursor {following}")

    data = {"items": [task.to_plain() for task in items], "next": following, "total": total}
    return call.finish(data, text)


@command
async def show(call: Call, task_id: Id) -> int:
    """Show one dead letter with its error and traceback."""
    async with call.broker() as broker:
        data, status = await describe(broker, task_id)
    problem = None
    if status.state != "failed":
        problem = exits.not_found("task", f"{task_id} among the dead letters: it is {status.state.value}").problem
    return call.finish(data, lambda: show_task(call, status, data["envelope"]), problem=problem)


@command
async def replay(
    call: Call, ids: SomeIds = None, queue: InQueue = None, task: OfTask = None, all_: All = False, reason: Reason = ""
) -> int:
    """Give dead letters a new life: same id, attempt 0. More than named ones asks first."""
    async with call.broker() as broker:
        chosen = await _chosen(call, broker, ids, queue, task, all_, "replay")
        if call.options.dry_run:
            return finish_items(call, await _foreseen(broker, chosen, "queued"))
        option = _how(ids, queue, task)
        outcomes: dict[str, str] = {}
        async with call.controller(broker).recorded("replay", chosen, option=option, reason=reason) as tally:
            for start in range(0, len(chosen), PAGE):
                part = await broker.replay(chosen[start : start + PAGE])
                tally.add_all(part)
                outcomes |= part
    return finish_items(call, outcomes, warnings=tally.warnings)


@command
async def purge(
    call: Call, ids: SomeIds = None, queue: InQueue = None, task: OfTask = None, all_: All = False, reason: Reason = ""
) -> int:
    """Remove dead letters for good. More than named ones asks first."""
    async with call.broker() as broker:
        chosen = await _chosen(call, broker, ids, queue, task, all_, "remove for good")
        if call.options.dry_run:
            return finish_items(call, await _foreseen(broker, chosen, "discarded"))
        from stem.control.dead import discard

        option = _how(ids, queue, task)
        outcomes: dict[str, str] = {}
        async with call.controller(broker).recorded("discard", chosen, option=option, reason=reason) as tally:
            for start in range(0, len(chosen), PAGE):
                async for part in discard(broker, chosen[start : start + PAGE]):
                    tally.add_all(part)
                    outcomes |= part
    return finish_items(call, outcomes, warnings=tally.warnings)


def _how(ids: list[str] | None, queue: str | None, task: str | None) -> str:
    """Return how dead letters were chosen, for the audit."""
    if ids:
        return ""
    words = [f"--queue {queue}"] * (queue is not None) + [f"--task {task}"] * (task is not None)
    return " ".join(words) or "--all"


async def _foreseen(broker: Broker, ids: list[str], done: str) -> dict[str, str]:
    outcomes: dict[str, str] = {}
    for start in range(0, len(ids), PAGE):
        part = ids[start : start + PAGE]
        statuses = await broker.statuses(part, timeline=False)
        outcomes |= {one: _would(status, done) for one, status in zip(part, statuses, strict=True)}
    return outcomes


def _would(status: TaskStatus | None, done: str) -> str:
    if status is None:
        return "unknown"
    return done if status.state == "failed" else "not-dead"


async def _chosen(
    call: Call, broker: Broker, ids: list[str] | None, queue: str | None, task: str | None, all_: bool, verb: str
) -> list[str]:
    """Return the ids that are meant; asks before more than those named."""
    if bool(ids) == (all_ or task is not None or queue is not None):
        raise exits.usage("say which dead letters", "give ids, or --all, --queue Q or --task T")
    if ids:
        return [check_name("task id", task_id) for task_id in ids]
    if queue is not None:
        await known_queue(broker, queue)
    found = [one for one in await _dead(broker, queue) if task is None or one.task == task]
    if not found:
        raise exits.CommandError(exits.Problem(exits.NOTHING, "nothing-matched", "there is no such dead letter"))
    samples = ", ".join(f"{one.id} ({one.task})" for one in found[:SAMPLES]) + (", …" if len(found) > SAMPLES else "")
    call.confirm(f"{verb} {len(found)} dead letters: {samples}?")
    return [one.id for one in found]


async def _dead(broker: Broker, queue: str | None) -> list[TaskStatus]:
    """Read all dead letters before one is touched: replaying while paging would skip some."""
    found: dict[str, TaskStatus] = {}
    cursor: str | None = None
    while True:
        page = await broker.census.tasks("dead", queue=queue, cursor=cursor, limit=PAGE)
        found |= {task.id: task for task in page.items}
        cursor = page.next
        if cursor is None:
            return list(found.values())
