"""The signals and their payloads, from the classes that carry them."""

from __future__ import annotations

import inspect
from dataclasses import MISSING, fields
from typing import Any

from stem.signals import NAMES, StemSignals, TaskEvent, WorkerEvent
from tests.reference.markdown import code, table


def common() -> str:
    """Return the fields that every signal about a task on a worker, or about a worker, has."""
    rows = [
        [f"every `{name}`", _fields(event, ())] for name, event in (("task_*", TaskEvent), ("worker_*", WorkerEvent))
    ]
    rows[1][0] += " and `control_*`"
    return table(["of", "fields"], rows)


def signals() -> str:
    """Return one row per signal: when it comes, in whose context, and what it says beyond the common fields."""
    rows = []
    for name in NAMES:
        event = StemSignals.named(name).event
        base: Any = next((each for each in (TaskEvent, WorkerEvent) if issubclass(event, each)), None)
        shared = tuple(field.name for field in fields(base)) if base else ()
        summary = " ".join((inspect.getdoc(event) or "").partition("\n\n")[0].split())
        notes = " ".join((inspect.getdoc(event) or "").partition("Attributes:\n")[2].split())
        payload = _fields(event, shared) or "-"
        rows.append([code(name), code(event.__name__), summary, f"{payload}. {_capital(notes)}" if notes else payload])
    return table(["signal", "event", "when", "its own fields"], rows)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _fields(event: Any, without: tuple[str, ...]) -> str:
    named = []
    for field in fields(event):
        if field.name not in without:
            needed = field.default is MISSING and field.default_factory is MISSING
            default = "" if needed or field.default in (MISSING, "") else f" = {field.default}"
            named.append(code(f"{field.name}: {field.type}{default}"))
    return ", ".join(named)
