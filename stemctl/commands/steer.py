"""revoke, pause, resume, drain, undrain and shutdown: changes that are stored first, and then confirmed by workers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from stemctl import complete, exits
from stemctl.options import Call, Command, Reason, command
from stemctl.output import duration

if TYPE_CHECKING:  # only for annotations: --help loads nothing of Stem that it does not print
    from stem.contracts import Broker, PauseKind
    from stem.control.answer import CommandResult

Ids = Annotated[list[str], typer.Argument(metavar="ID...", autocompletion=complete.task_ids, show_default=False)]
Named = Annotated[
    list[str],
    typer.Argument(metavar="WORKER...", help="Ids, names or globs.", autocompletion=complete.workers),
]
Wait = Annotated[
    str | None,
    typer.Option("--wait", metavar="DURATION", help="Wait for the effect this long (else for the confirmation)."),
]
QueueOption = Annotated[
    list[str] | None, typer.Option("--queue", metavar="QUEUE", help="A queue.", autocompletion=complete.queues)
]
TaskOption = Annotated[
    list[str] | None, typer.Option("--task", metavar="TASK", help="A task name.", autocompletion=complete.tasks)
]
WorkerOption = Annotated[
    list[str] | None,
    typer.Option("--worker", metavar="WORKER", help="An id, a name or a glob.", autocompletion=complete.workers),
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("revoke", cls=Command)(revoke)
    app.command("pause", cls=Command)(pause)
    app.command("resume", cls=Command)(resume)
    app.command("drain", cls=Command)(drain)
    app.command("undrain", cls=Command)(undrain)
    app.command("shutdown", cls=Command)(shutdown)


@command
async def revoke(
    call: Call,
    ids: Ids,
    terminate: Annotated[bool, typer.Option("--terminate", help="End running ones by force.")] = False,
    reason: Reason = "",
    wait: Wait = None,
) -> int:
    """Make tasks never start (again); running ones are told to stop."""
    wait_s = _wait(call, wait)
    async with call.broker() as broker:
        result = await call.controller(broker).revoke(
            ids, terminate=terminate, reason=reason, wait_s=wait_s, dry_run=call.options.dry_run
        )
    return _finish(call, result, "task")


@command
async def pause(
    call: Call,
    queue: QueueOption = None,
    task: TaskOption = None,
    worker: WorkerOption = None,
    for_: Annotated[
        str | None, typer.Option("--for", metavar="DURATION", help="Resume by itself after this time.")
    ] = None,
    reason: Reason = "",
    wait: Wait = None,
) -> int:
    """Hand out nothing more of a queue, a task name or to a worker."""
    kind, targets = _one_kind(queue, task, worker)
    for_s = None if for_ is None else call.seconds(for_, "--for")
    wait_s = _wait(call, wait)
    async with call.broker() as broker:
        controller = call.controller(broker)
        await controller.look(lambda: _known_queues(broker, kind, targets))
        asks = kind == "task" and not call.options.dry_run  # a dry run sends nothing
        warnings = await _unregistered(call, broker, targets) if asks else []
        result = await controller.pause(
            kind, targets, for_s=for_s, reason=reason, wait_s=wait_s, dry_run=call.options.dry_run
        )
    return _finish(call, result, "worker" if kind == "worker" else "queue", warnings)


@command
async def resume(
    call: Call,
    queue: QueueOption = None,
    task: TaskOption = None,
    worker: WorkerOption = None,
    reason: Reason = "",
    wait: Wait = None,
) -> int:
    """End a pause."""
    kind, targets = _one_kind(queue, task, worker)
    wait_s = _wait(call, wait)
    async with call.broker() as broker:
        await _known_queues(broker, kind, targets)
        result = await call.controller(broker).resume(
            kind, targets, reason=reason, wait_s=wait_s, dry_run=call.options.dry_run
        )
    return _finish(call, result, "worker" if kind == "worker" else "queue")


@command
async def drain(call: Call, workers: Named, reason: Reason = "", wait: Wait = None) -> int:
    """Let workers take nothing more and stay alive; --wait until nothing is in flight."""
    wait_s = _wait(call, wait)
    async with call.broker() as broker:
        controller = call.controller(broker)
        result = await controller.drain(workers, reason=reason, wait_s=wait_s, dry_run=call.options.dry_run)
    return _finish(call, result, "worker")


@command
async def undrain(call: Call, workers: Named, reason: Reason = "", wait: Wait = None) -> int:
    """Let drained workers take work again."""
    wait_s = _wait(call, wait)
    async with call.broker() as broker:
        controller = call.controller(broker)
        result = await controller.undrain(workers, reason=reason, wait_s=wait_s, dry_run=call.options.dry_run)
    return _finish(call, result, "worker")


@command
async def shutdown(
    call: Call,
    workers: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[WORKER]...", help="Ids, names or globs; none means all.", autocompletion=complete.workers
        ),
    ] = None,
    mode: Annotated[
        str,
        typer.Option(
            "--mode",
            metavar="warm|soft|hard",
            help="warm: finish what runs. soft: ask handlers to stop, hand back after the grace time. hard: hand back "
            "now.",
        ),
    ] = "warm",
    reason: Reason = "",
    wait: Wait = None,
) -> int:
    """Stop workers; --wait until they have said goodbye. Stopping all asks first."""
    from stem.control.target import live, missing, select

    targets = workers or []
    if mode not in ("warm", "soft", "hard"):
        raise exits.usage(f"--mode {mode} is not known", "use warm, soft or hard")
    wait_s = _wait(call, wait)
    async with call.broker() as broker:
        controller = call.controller(broker)
        seen = await controller.look(broker.presence.workers)
        there = live(seen)
        meant = select([*there, *missing(seen)], targets)
        if meant and len(select(there, targets)) == len(there):
            names = ", ".join(worker.heartbeat.name for worker in meant[:5]) + (", …" if len(meant) > 5 else "")
            call.confirm(f"stop all {len(meant)} workers of namespace {broker.namespace} ({names}), mode {mode}?")
        result = await controller.shutdown(
            targets,
            mode=mode,  # type: ignore[arg-type]  # checked above
            reason=reason,
            wait_s=wait_s,
            dry_run=call.options.dry_run,
        )
    return _finish(call, result, "worker")


def _wait(call: Call, wait: str | None) -> float | None:
    return None if wait is None else call.seconds(wait, "--wait")


def _one_kind(queue: list[str] | None, task: list[str] | None, worker: list[str] | None) -> tuple[PauseKind, list[str]]:
    kinds: dict[PauseKind, list[str] | None] = {"queue": queue, "task": task, "worker": worker}
    given = [(kind, targets) for kind, targets in kinds.items() if targets]
    if len(given) != 1:
        raise exits.usage("name one kind of target", "use --queue Q, --task T or --worker W; each may be repeated")
    kind, targets = given[0]
    return kind, targets or []


async def _known_queues(broker: Broker, kind: PauseKind, targets: list[str]) -> None:
    from stem.control.target import live
    from stem.messages.names import check_name

    if kind != "queue":
        return
    names = [check_name("queue", name) for name in targets]
    known = {row.name for row in await broker.census.queues(names)}
    known |= {queue for worker in live(await broker.presence.workers()) for queue in worker.heartbeat.queues}
    known |= {pause.target for pause in await broker.census.pauses() if pause.kind == "queue"}
    for name in names:
        if name not in known:
            raise exits.not_found("queue", name, "nothing was ever enqueued there and no live worker takes it")


async def _unregistered(call: Call, broker: Broker, names: list[str]) -> list[str]:
    """Return a warning for each task name that no live worker registers: it may be mistyped, or come later."""
    from stem.control.target import live
    from stem.control.why import registered_names

    alive = live(await call.controller(broker).look(broker.presence.workers))
    if not alive:
        return []
    # Those who do not answer within a second are given the benefit of the doubt.
    answers = await call.controller(broker, at_most_s=1.0).inspect("registered", [seen.heartbeat.id for seen in alive])
    said = [worker for worker in answers.workers if worker.ok]
    if len(said) < len(alive):
        return []
    known = {name for worker in said for name in registered_names(worker.data)}
    return [f"no live worker registers task {name}: is it spelt so?" for name in names if name not in known]


def _finish(call: Call, result: CommandResult, what: str, warnings: Sequence[str] = ()) -> int:
    def show() -> None:
        if result.items:
            call.out.table(
                ["TARGET", "WORKER", "STAGE", "OUTCOME", "CHANGED", "ERROR"],
                [[i.target, i.worker, i.stage, i.outcome, i.changed, i.error] for i in result.items],
            )
        if result.dry_run:
            call.out.note(f"dry run: nothing was sent; {result.expected} live workers would have to confirm")
        elif result.epoch:
            confirmed = f"{result.applied} of {result.expected} workers confirmed in {duration(result.elapsed_ms)}"
            call.out.note(f"stored; {confirmed if result.expected else 'no live worker has to confirm it'}")
        for silent in result.silent:
            call.out.note(
                f"no answer from {silent.name} ({silent.id}): {silent.diagnosis}, "
                f"last beat {duration(silent.age_ms)} ago"
            )

    problem = exits.of_command(result, what)
    return call.finish(result.to_plain(), show, warnings=[*warnings, *result.warnings], problem=problem)
