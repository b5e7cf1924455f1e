"""From what the server stores to what Stem shows: records, rows, timelines. Pure; one bad field spoils one field."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from stem.contracts import Delivery, Expired, FinalRow, Pause, PauseKind
from stem.errors import DecodeError
from stem.messages.codec import MAX_BODY, unpack
from stem.messages.envelope import Envelope
from stem.messages.status import ErrorInfo, TaskState, TaskStatus, TimelineEntry

FIELDS: Final = (
    *("n", "q", "p", "b", "st", "a", "c", "k", "o", "du", "x", "er", "re", "at", "e", "s1", "f1", "pg", "ds", "tl"),
)
LISTED: Final = tuple(name for name in FIELDS if name not in ("b", "re", "tl"))
"""Of a task among many: without what may be large and no list shows."""
_KINDS: Final[Mapping[str, PauseKind]] = {"queue": "queue", "task": "task", "worker": "worker"}


def text(value: object) -> str:
    """Return what the server sent as text; bytes that are not UTF-8 are replaced."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else ""


_NUMBER: Final = re.compile(rb"-?[0-9]{1,18}")
_NUMBER_TEXT: Final = re.compile(r"-?[0-9]{1,18}")


def number(value: object) -> int | None:
    """Return an integer, or None for a missing or ill-formed one.

    Stricter than `int()`, which takes digits of other scripts, underscores and white space, and which `str.isdigit`
    does not guard: that holds for digits that `int()` refuses.
    """
    if isinstance(value, bytes):
        # Of bytes, unlike of text, `isdigit` takes ASCII digits only; the pattern is for what is no plain number.
        plain = value.isdigit() and len(value) <= 18
        return int(value) if plain or _NUMBER.fullmatch(value) else None
    if isinstance(value, int):
        return value
    return int(value) if isinstance(value, str) and _NUMBER_TEXT.fullmatch(value) else None


def status_of(task_id: str, values: Sequence[Any] | None, *, timeline: bool, listed: bool = False) -> TaskStatus | None:
    """Build a status from the values of `FIELDS` (or `LISTED`); None where there is no record, or no sensible one."""
    if values is None:
        return None
    r: dict[str, Any] = dict.fromkeys(FIELDS)
    r.update(zip(LISTED if listed else FIELDS, values, strict=True))
    try:
        state = TaskState(text(r["st"]))
    except ValueError:
        return None
    error: ErrorInfo | None = None
    if r["er"]:
        try:
            error = ErrorInfo.decode(r["er"])
        except DecodeError:
            error = ErrorInfo(type="DecodeError", message="the stored error cannot be read")
    waiting = state in (TaskState.SCHEDULED, TaskState.RETRYING)
    started = number(r["s1"])
    status = TaskStatus(
        id=task_id,
        task=text(r["n"]),
        queue=text(r["q"]),
        state=state,
        priority=number(r["p"]) or 0,
        attempt=number(r["a"]) or 0,
        crashes=number(r["c"]) or 0,
        token=number(r["k"]) or 0,
        worker=text(r["o"]) or None,
        enqueued_at_ms=_enqueued_at(r),
        due_at_ms=number(r["du"]) if waiting else None,
        started_at_ms=started,
        finished_at_ms=number(r["f1"]) if state.final else None,
        expires_at_ms=number(r["x"]),
        result=_plain(r["re"]) if state is TaskState.SUCCEEDED else None,
        error=None if state is TaskState.SUCCEEDED else error,
        reason=text(r["ds"]) if state.final else "",
        meta=_meta(r["b"]),
        progress=_plain(r["pg"]),
        timeline=_timeline(r, state) if timeline else (),
    )
    return status


def _enqueued_at(r: Mapping[str, Any]) -> int | None:
    """Return the time of enqueue: where the record does not say, it is that of its stream entry, `<ms>-<number>`."""
    return number(r["e"].partition(b"-")[0]) if r["at"] is None and r["e"] else number(r["at"])


def _plain(data: object) -> Any:
    if not isinstance(data, bytes) or not data:
        return None
    try:
        return unpack(data)
    except DecodeError:
        return None


def _meta(body: object) -> Mapping[str, Any]:
    if not isinstance(body, bytes):
        return {}
    try:
        # What looks at tasks must not be the one that a huge body hits: reading takes 80 times its size.
        return Envelope.decode(body, limit=MAX_BODY).meta
    except DecodeError:
        return {}


def _timeline(r: Mapping[str, Any], state: TaskState) -> tuple[TimelineEntry, ...]:
    """Join the lines kept for irregular steps with what the record's own times tell."""
    attempt = number(r["a"]) or 0
    entries: list[TimelineEntry] = []
    if (at := _enqueued_at(r)) is not None:
        entries.append(TimelineEntry(at_ms=at, event="enqueued"))
    lines = text(r["tl"]).split("\n")[:-1]
    told = set()
    for line in lines:
        parts = line.split("\t", 4)
        if len(parts) != 5:
            continue
        line_at, line_attempt = number(parts[0]), number(parts[3])
        if line_at is not None and line_attempt is not None:
            entry = TimelineEntry(at_ms=line_at, event=parts[1], worker=parts[2], attempt=line_attempt, detail=parts[4])
            entries.append(entry)
            told.add((entry.at_ms, entry.event))
    started, worker = number(r["s1"]), text(r["o"])
    if started is not None and worker and (started, "started") not in told:
        entries.append(TimelineEntry(at_ms=started, event="started", worker=worker, attempt=attempt))
    if state.final and (finished := number(r["f1"])) is not None and (finished, state.value) not in told:
        entries.append(
            TimelineEntry(at_ms=finished, event=state.value, worker=worker, attempt=attempt, detail=text(r["ds"]))
        )
    return tuple(sorted(entries, key=lambda entry: entry.at_ms))


def delivery_of(row: Sequence[Any], now_ms: int) -> Delivery:
    """Build a delivery from what `fetch` and `adopt` return; one that is told no time of its start started now.

    It always is one, whatever the record holds: the worker finds out what is wrong with it, and buries it. Raising here
    would take the whole batch along.
    """
    task_id, task, token, queue, body, priority, attempt, lease, enqueued = row[:9]
    delivery = Delivery(
        id=text(task_id),
        task=text(task),
        token=number(token) or 0,
        queue=text(queue),
        body=body if isinstance(body, bytes) else b"",
        priority=number(priority) or 0,
        attempt=number(attempt) or 0,
        lease_ms=number(lease) or 0,
        enqueued_at_ms=number(enqueued) or 0,
        started_at_ms=now_ms,
    )
    if len(row) > 9:
        delivery.signature = row[9] if isinstance(row[9], bytes) else b""
        delivery.crashes = number(row[10]) or 0
        delivery.give_backs = number(row[11]) or 0
        delivery.first_give_back_ms = number(row[12]) or 0
    if len(row) > 13:
        delivery.started_at_ms = number(row[13]) or 0
    return delivery


def expired_of(row: Sequence[Any]) -> Expired:
    """Build what `fetch` tells of a task that came too late; it always is one, as for a delivery."""
    task_id, task, queue, body, attempt, signature = row
    return Expired(
        id=text(task_id),
        task=text(task),
        queue=text(queue),
        body=body if isinstance(body, bytes) else b"",
        signature=signature if isinstance(signature, bytes) else b"",
        attempt=number(attempt) or 0,
    )


def pauses_of(flat: Sequence[Any]) -> list[Pause]:
    """Build pauses from the hash's fields and values."""
    pauses = []
    for field, value in zip(flat[::2], flat[1::2], strict=True):
        kind, _, target = text(field).partition(":")
        parts = text(value).split("\t", 3)
        at_ms, until_ms = number(parts[0]), number(parts[1]) if len(parts) == 4 else None
        if kind in _KINDS and at_ms is not None and until_ms is not None:
            pauses.append(
                Pause(
                    kind=_KINDS[kind],
                    target=target,
                    at_ms=at_ms,
                    until_ms=until_ms or None,
                    actor=parts[2],
                    reason=parts[3],
                )
            )
    return sorted(pauses, key=lambda pause: (pause.kind, pause.target))


def final_row_of(data: bytes) -> FinalRow | None:
    """Build a history row from its tab-joined line; None where it makes no sense."""
    parts = text(data).split("\t")
    try:
        return FinalRow(
            id=parts[0],
            state=TaskState(parts[1]),
            task=parts[2],
            queue=parts[3],
            worker=parts[4],
            attempt=number(parts[5]) or 0,
            enqueued_at_ms=number(parts[6]) or 0,
            started_at_ms=number(parts[7]) or 0,
            finished_at_ms=number(parts[8]) or 0,
            error_type=parts[9],
        )
    except (ValueError, IndexError):
        return None
