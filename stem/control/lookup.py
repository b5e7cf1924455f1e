"""One task as people may see it: what its program named in `redact` is hidden, here and for every screen.

Readers have no application code. They learn the names from the task's own options, where its producer knew them, and
from what workers have told the broker of the task's name.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from stem.contracts import Broker
from stem.errors import DecodeError
from stem.messages.envelope import Envelope
from stem.messages.status import TaskStatus
from stem.record import record
from stem.redaction import Veil, masked, travelled_paths

AT_ONCE: Final = 20


@record
class Request:
    """What the producer asked for; the body itself is not shown.

    Attributes:
        envelope: None where the body cannot be read; `problem` says why.
    """

    envelope: Envelope | None
    problem: str
    size_bytes: int
    signed: bool


async def look_up(broker: Broker, task_id: str, *, timeline: bool = True) -> tuple[TaskStatus | None, Request | None]:
    """Return what the record says of a task, and what was asked for; None for what is not there."""
    (status,) = await broker.statuses([task_id], timeline=timeline)
    envelope, request = await _asked(broker, task_id)
    if envelope is None:
        return status, request
    paths = await _paths(broker, envelope)
    if not paths:
        return status, request
    assert request is not None
    shown = replace(request, envelope=replace(envelope, args=masked(envelope.args, paths)))
    return None if status is None else _hidden(status, Veil(envelope.args, paths)), shown


async def concealed(broker: Broker, status: TaskStatus) -> TaskStatus:
    """Return a status without the values of redacted arguments, as far as its task's body is still there."""
    if status.error is None and status.result is None and status.progress is None:
        return status
    envelope, _ = await _asked(broker, status.id)
    if envelope is None:
        return status
    paths = await _paths(broker, envelope)
    return _hidden(status, Veil(envelope.args, paths)) if paths else status


async def all_concealed(broker: Broker, statuses: Sequence[TaskStatus]) -> list[TaskStatus]:
    """Do the same for many; a few at a time, because a body may be large."""
    shown: list[TaskStatus] = []
    for start in range(0, len(statuses), AT_ONCE):
        shown += await asyncio.gather(*(concealed(broker, status) for status in statuses[start : start + AT_ONCE]))
    return shown


async def concealed_args(broker: Broker, task: str, args: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a request of this name as they may be shown."""
    return masked(args, await broker.census.redacted(task))


async def _asked(broker: Broker, task_id: str) -> tuple[Envelope | None, Request | None]:
    found = await broker.body(task_id)
    if found is None:
        return None, None
    body, signature = found
    envelope, problem = None, ""
    try:
        envelope = Envelope.decode(body, limit=len(body))
    except DecodeError as error:
        problem = str(error)
    return envelope, Request(envelope=envelope, problem=problem, size_bytes=len(body), signed=bool(signature))


async def _paths(broker: Broker, envelope: Envelope) -> Sequence[str]:
    return sorted({*await broker.census.redacted(envelope.task), *travelled_paths(envelope.options)})


def _hidden(status: TaskStatus, veil: Veil) -> TaskStatus:
    error = status.error
    if error is not None:
        error = replace(error, message=veil.text(error.message), traceback=veil.text(error.traceback))
    return replace(status, error=error, result=veil.data(status.result), progress=veil.data(status.progress))
