"""ping, inspect and stats: questions that every worker answers for itself."""

from __future__ import annotations

from typing import Annotated

import typer

from stemctl import complete, exits
from stemctl.options import Call, Command, command
from stemctl.output import duration, inline

Workers = Annotated[
    list[str] | None,
    typer.Argument(metavar="[WORKER]...", help="Ids, names or globs; none means all.", autocompletion=complete.workers),
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("ping", cls=Command)(ping)
    app.command("inspect", cls=Command)(inspect)
    app.command("stats", cls=Command)(stats)


@command
async def ping(call: Call, workers: Workers = None) -> int:
    """Ask who is there: returns at the last answer, names who is silent and why."""
    async with call.broker() as broker:
        result = await call.controller(broker).ping(workers or [])

    def show() -> None:
        rows: list[list[object]] = [[w.name, w.id, w.diagnosis, f"{w.rtt_ms:.1f}ms"] for w in result.workers]
        rows += [[s.name, s.id, s.diagnosis, f"no answer, last beat {duration(s.age_ms)} ago"] for s in result.silent]
        if rows:
            call.out.table(["WORKER", "ID", "STATE", "ANSWER"], rows)
        if result.expected:
            call.out.note(f"{result.replied} of {result.expected} answered in {duration(result.elapsed_ms)}")

    problem = exits.of_answers(result)
    return call.finish(result.to_plain(), show, warnings=result.warnings, problem=problem)


@command
async def inspect(
    call: Call,
    what: Annotated[
        str,
        typer.Argument(
            metavar="[WHAT]",
            help="active, reserved, revoked, registered, queues, children, config or stack.",
            autocompletion=complete.inspections,
        ),
    ] = "active",
    workers: Workers = None,
) -> int:
    """Look into workers: what they run, hold, know, and where their code stands."""
    async with call.broker() as broker:
        result = await call.controller(broker).inspect(what, workers or [])

    def show() -> None:
        for worker in result.workers:
            call.out.line(f"{worker.name} ({worker.id})")
            if not worker.ok:
                call.out.line(f"  {worker.error_code}: {worker.error_message}")
            _show_data(call, worker.data)
        _show_silent(call, result.silent)

    data = {"what": what, **result.to_plain()}
    return call.finish(data, show, warnings=result.warnings, problem=exits.of_answers(result))


@command
async def stats(call: Call, workers: Workers = None) -> int:
    """Show each worker's counters, load and memory."""
    async with call.broker() as broker:
        result = await call.controller(broker).stats(workers or [])

    def show() -> None:
        for worker in result.workers:
            call.out.line(f"{worker.name} ({worker.id})")
            if not worker.ok:
                call.out.line(f"  {worker.error_code}: {worker.error_message}")
            _show_data(call, worker.data)
        _show_silent(call, result.silent)

    return call.finish(result.to_plain(), show, warnings=result.warnings, problem=exits.of_answers(result))


def _show_data(call: Call, data: object, indent: str = "  ") -> None:
    """Print a nested answer as indented lines; a text of several lines (a stack) keeps them."""
    if not isinstance(data, dict):
        call.out.line(f"{indent}{inline(data, 2_000)}")
        return
    if not data:
        call.out.line(f"{indent}nothing")
    for key, value in data.items():
        if isinstance(value, dict) and value:
            call.out.line(f"{indent}{key}:")
            _show_data(call, value, indent + "  ")
        elif isinstance(value, list) and value:
            call.out.line(f"{indent}{key}:")
            for item in value:
                _show_item(call, item, indent + "  ")
        elif isinstance(value, str) and "\n" in value:
            call.out.line(f"{indent}{key}:")
            for line in value.splitlines():
                call.out.line(f"{indent}  {line}")
        else:
            call.out.line(f"{indent}{key}: {value if isinstance(value, str) else inline(value)}")


def _show_item(call: Call, item: object, indent: str) -> None:
    if isinstance(item, dict):
        # A stack is a list of lines: below, one a line, where it can be read.
        stacks = [lines for lines in item.values() if _is_lines(lines)]
        pairs = (f"{key}={_value(value)}" for key, value in item.items() if value not in stacks)
        call.out.line(indent + " ".join(pairs))
        for line in (line for lines in stacks for line in lines):
            call.out.line(f"{indent}    {line}")
    elif isinstance(item, str):
        for line in item.splitlines() or [""]:
            call.out.line(indent + line)
    else:
        call.out.line(indent + inline(item))


def _is_lines(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(line, str) and " " in line for line in value)


def _value(value: object) -> str:
    return value if isinstance(value, str) else inline(value)


def _show_silent(call: Call, silent: object) -> None:
    for one in silent if isinstance(silent, list) else []:
        call.out.line(f"{one.name} ({one.id})")
        call.out.line(f"  no answer: {one.diagnosis}, last beat {duration(one.age_ms)} ago")
