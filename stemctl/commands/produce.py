"""enqueue and result: hand a task in by name, and see what came of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from stem.errors import BrokerError, BrokerRefusedError, UnknownOutcomeError
from stemctl import complete, exits
from stemctl.commands.tasks import Id
from stemctl.options import Call, Command, command
from stemctl.output import WHOLE, inline, moment

if TYPE_CHECKING:  # only for annotations: --help loads nothing of Stem that it does not print
    from stem.contracts import Broker
    from stem.messages.status import TaskStatus
    from stem.options import TaskOptions


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("enqueue", cls=Command)(enqueue)
    app.command("result", cls=Command)(result)


@command
async def enqueue(
    call: Call,
    task: Annotated[str, typer.Argument(metavar="TASK", autocompletion=complete.tasks)],
    pairs: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="JSON where it parses (n=3, on=true, x='\"3\"'), else text."),
    ] = None,
    queue: Annotated[str | None, typer.Option("--queue", metavar="QUEUE", autocompletion=complete.queues)] = None,
    priority: Annotated[int | None, typer.Option("--priority", metavar="0-9", help="9 goes first.")] = None,
    delay: Annotated[str | None, typer.Option("--delay", metavar="DURATION", help="Start after this time.")] = None,
    eta: Annotated[
        str | None, typer.Option("--eta", metavar="TIME", help="Start at this time: 2025-10-31T12:00:00+02:00.")
    ] = None,
    expires: Annotated[
        str | None, typer.Option("--expires", metavar="DURATION|TIME", help="Do not start it after this.")
    ] = None,
    unique_key: Annotated[
        str | None, typer.Option("--unique-key", metavar="KEY", help="One unfinished task of this name and key.")
    ] = None,
    task_id: Annotated[str | None, typer.Option("--id", metavar="ID", help="An id of your choice.")] = None,
    json_args: Annotated[
        str | None,
        typer.Option("--json-args", metavar="OBJECT", help="All arguments as one JSON object; - reads stdin."),
    ] = None,
) -> int:
    """Enqueue a task by name."""
    from stem.control.lookup import concealed_args
    from stem.options import TaskOptions

    args = arguments_of(pairs or [], json_args)
    options = TaskOptions() if queue is None else TaskOptions(queue=queue)
    when: dict[str, Any] = {
        "delay": None if delay is None else call.seconds(delay, "--delay"),
        "eta": None if eta is None else time_of(eta, "--eta"),
        "expires": None if expires is None else _expiry(call, expires),
        "priority": priority,
        "unique_key": unique_key,
        "task_id": task_id,
    }
    config = call.config()
    async with call.broker() as broker:
        warnings = await _warnings(call, broker, task, queue or config.default_queue)
        if call.options.dry_run:
            _check(broker, config, task, args, options, when)
            found, known = None, task_id or ""
        else:
            known = await _sent(call, broker, task, args, options, when)
            found = await _seen(broker, known, warnings)
        try:
            shown = await concealed_args(broker, task, args)  # after the name was found to be one
        except BrokerError as error:
            if call.options.dry_run and not isinstance(error, BrokerRefusedError):
                raise
            shown = None  # it is enqueued: that its id gets out counts for more
    data = {
        "id": known,
        "state": None if found is None else found.state.value,
        "task": task,
        "queue": queue or config.default_queue if found is None else found.queue,
        "args": shown,
        "dry_run": call.options.dry_run,
    }

    def text() -> None:
        if call.options.dry_run:
            with_args = "" if shown is None else f" with {inline(shown)}"
            call.out.line(f"would enqueue {task} into {data['queue']}{with_args}")
        else:
            call.out.line(known)

    return call.finish(data, text, warnings=warnings)


@command
async def result(
    call: Call,
    task_id: Id,
    wait: Annotated[str | None, typer.Option("--wait", metavar="DURATION", help="Wait for its end this long.")] = None,
) -> int:
    """Print what a task returned; it fails as the task did."""
    from stem.adapters.connect import connect_backend
    from stem.client import Stem
    from stem.control.lookup import concealed

    wait_s = None if wait is None else call.seconds(wait, "--wait")
    config = call.config()
    async with call.broker() as broker:
        results = config.result_backend_url
        backend = None if results is None else connect_backend(results, namespace=broker.namespace, tls=config.tls)
        try:
            async with Stem(broker, None, backend, None, config, patience=0) as stem:
                status = await (stem.status(task_id) if wait_s is None else stem.wait_for(task_id, wait_s))
            status = await concealed(broker, status)
        finally:
            if backend is not None:
                await backend.close()

    def text() -> None:
        if status.succeeded:
            call.out.block(status.result if isinstance(status.result, str) else inline(status.result, WHOLE))
        elif status.error is not None:
            call.out.block(status.error.traceback.rstrip() or f"{status.error.type}: {status.error.message}")

    return call.finish(status.to_plain(), text, problem=_problem(status))


def _problem(status: TaskStatus) -> exits.Problem | None:
    if status.succeeded:
        return None
    if not status.state.final:
        due = f", due {moment(status.due_at_ms)}" if status.due_at_ms else ""
        return exits.Problem(
            exits.WAITED_OUT,
            "not-finished",
            f"task {status.id} is {status.state.value}{due}",
            f"--wait 10s waits for it; `stemctl why {status.id}` says what holds it",
        )
    error = f": {status.error.type}: {status.error.message}" if status.error is not None else ""
    reason = f" ({status.reason})" if status.reason else ""
    return exits.Problem(
        exits.FAILED,
        status.state.value,
        f"task {status.id} is {status.state.value}{reason}{error}",
        f"see `stemctl why {status.id}`",
    )


# ----------------------------------------------------------------------------------------------------------- arguments


def arguments_of(pairs: Sequence[str], json_args: str | None) -> dict[str, Any]:
    """Return the task's arguments.

    Raises:
        CommandError: a pair without `=`, a name given twice, or JSON that is no object.
    """
    args: dict[str, Any] = {}
    if json_args is not None:
        if json_args == "-" and sys.stdin is None:
            raise exits.usage("--json-args - reads stdin, which is closed", "write the JSON in place of the -")
        try:
            text = sys.stdin.read() if json_args == "-" else json_args
            value = json.loads(text, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise exits.usage(f"--json-args is not JSON: {error}", """write it as '{"n": 3}'""") from error
        if not isinstance(value, dict):
            raise exits.usage("--json-args is not a JSON object", """write it as '{"n": 3}'""")
        args.update(value)
    for pair in pairs:
        name, sign, text = pair.partition("=")
        if not sign or not name:
            raise exits.usage(f"{pair!r} is not an argument", "write it as name=value")
        if name in args:
            raise exits.usage(f"argument {name!r} is given twice")
        args[name] = value_of(text)
    return args


def value_of(text: str) -> Any:
    """Return the JSON value that `text` is, else the text itself."""
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return text


def _no_constant(name: str) -> NoReturn:
    # Python reads NaN and Infinity, JSON has no such thing: then it is a text.
    raise ValueError(f"{name} is not JSON")


def time_of(text: str, name: str) -> datetime:
    """Return the moment that `text` (ISO 8601) means; without a zone, local time.

    Raises:
        CommandError: it is not one.
    """
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise exits.usage(f"{name} {text!r} is not a time", "write it as 2025-10-31T12:00:00+02:00") from error


def _expiry(call: Call, text: str) -> float | datetime:
    if len(text) > 8 and text[:4].isdigit() and text[4] == "-":
        return time_of(text, "--expires")
    return call.seconds(text, "--expires")


async def _sent(
    call: Call, broker: Broker, task: str, args: dict[str, Any], options: TaskOptions, when: dict[str, Any]
) -> str:
    """Enqueue and return the id.

    Raises:
        CommandError: nobody knows whether it is enqueued; says the id, under which it is safe to try again.
    """
    from stem.client import Stem
    from stem.messages.envelope import new_task_id
    from stem.signing import PayloadSigner

    # Made here and not on the way: the same command with --id must mean the same task, byte by byte.
    task_id = new_task_id() if when["task_id"] is None else str(when["task_id"])
    again = f"run the same again with --id {task_id}, which is safe, or look: `stemctl why {task_id}`"
    message = f"task {task_id}: interrupted, it may or may not be enqueued"
    call.if_interrupted = exits.Problem(exits.INTERRUPTED, "interrupted", message, again, task_id)
    config = call.config()
    signer, patience = PayloadSigner.maybe(config.signing), min(5.0, call.timeout_s())
    try:
        async with Stem(broker, None, None, signer, config, patience=patience) as stem:
            return await stem.enqueue(task, args, options=options, **{**when, "task_id": task_id})
    except UnknownOutcomeError as error:
        message = f"task {task_id}: the broker at {broker.url} did not answer, it may or may not be enqueued"
        problem = exits.Problem(exits.UNREACHABLE, "unknown-outcome", message, again, task_id)
        raise exits.CommandError(problem) from error


async def _seen(broker: Broker, task_id: str, warnings: list[str]) -> TaskStatus | None:
    """Return what became of a task that is enqueued; that this cannot be read is not worth more than a warning."""
    try:
        (found,) = await broker.statuses([task_id], timeline=False)
    except BrokerError as error:
        warnings.append(
            f"it is enqueued, but its state cannot be read: {exits.problem_of(error, changing=False).message}"
        )
        return None
    return found


def _check(broker: Broker, config: Any, task: str, args: dict[str, Any], options: Any, when: dict[str, Any]) -> None:
    """Run the checks of an enqueue without sending it."""
    from stem.producer import Producer
    from stem.registry import SimpleTaskRegistry
    from stem.signing import PayloadSigner
    from stem.task import Signature

    signer = PayloadSigner.maybe(config.signing)
    producer = Producer(registry=SimpleTaskRegistry(), signer=signer, config=config, namespace=broker.namespace)
    producer.prepare(Signature(name=task, args=args, options=options, **when))


async def _warnings(call: Call, broker: Broker, task: str, queue: str) -> list[str]:
    """Return what will keep the task from running as things are."""
    from stem.control.target import live
    from stem.control.why import registered_names

    try:
        alive = live(await broker.presence.workers())
        takers = [seen for seen in alive if queue in seen.heartbeat.queues]
        if not alive:
            return ["no live worker is there: it waits until one is started"]
        if not takers:
            return [f"no live worker takes queue {queue}: it waits until one does"]
        # Those who do not answer within a second are given the benefit of the doubt.
        controller = call.controller(broker, at_most_s=1.0)
        answers = await controller.inspect("registered", [seen.heartbeat.id for seen in takers])
    except BrokerRefusedError:  # whoever enqueues need not be allowed to look around
        return [f"this user may not ask which workers take queue {queue} and know {task}"]
    said = [worker for worker in answers.workers if worker.ok]
    if len(said) == len(takers) and not any(task in registered_names(worker.data) for worker in said):
        return [f"no live worker of queue {queue} registers {task}: it waits until one does"]
    return []
