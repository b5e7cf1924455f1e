"""What goes into each script, as plain arguments: shared by the asyncio and the blocking handle. Pure.

What is longer than `CHUNK` is sent in parts, each one script: `half_way` says what it means when a later one fails.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from stem.contracts import (
    Beat,
    Change,
    ChangeItem,
    ClearDrain,
    ClearPause,
    Enqueued,
    FetchRequest,
    Limits,
    NewTask,
    RevokeTasks,
    Seen,
    SetDrain,
    SetPause,
    SetShutdown,
    Settlement,
)
from stem.errors import BrokerError, DecodeError, UnknownOutcomeError
from stem.messages.audit import Deed, said_of
from stem.messages.command import Command
from stem.messages.heartbeat import Heartbeat
from stem.messages.names import check_name
from stem.text import clean

CHUNK: Final = 500
TOMBSTONED_TTL_MS: Final = 86_400_000
Arg = str | bytes | int


_ENQUEUED: Final[frozenset[Any]] = frozenset(
    ("queued", "scheduled", "exists", "duplicate", "revoked", "full", "conflict")
)


def half_way(what: str, error: BrokerError, *, enqueued: Sequence[str] = ()) -> UnknownOutcomeError:
    """Return the error for a call that failed after parts of it were applied, whatever became of the part that failed.

    Args:
        enqueued: the ids that were taken for certain.
    """
    return UnknownOutcomeError(f"{what} is done in part, and then failed: {error}", enqueued=enqueued)


def _or_empty(value: int | str | None) -> int | str:
    return "" if value is None else value


def enqueue_args(tasks: Sequence[NewTask], limits: Limits) -> list[Arg]:
    args: list[Arg] = [limits.queue_length or 0, TOMBSTONED_TTL_MS]
    for task in tasks:
        args += (task.id, task.task, task.queue, task.body, task.priority, 0)
        count = len(args)
        for letter, value in (
            ("s", task.signature or None),
            ("d", task.delay_ms),
            ("t", task.eta_ms),
            ("x", task.expires_in_ms),
            ("e", task.expires_ms),
            ("l", task.lease_ms),
            ("u", task.unique_key),
        ):
            if value is not None:
                args += (letter, value)
        args[count - 1] = (len(args) - count) // 2
    return args


def enqueued_of(reply: Sequence[bytes], tasks: Sequence[NewTask]) -> list[Enqueued]:
    """Build the answers to these tasks.

    Raises:
        ValueError: the reply answers something else: nothing of it may be taken for an acknowledgement.
    """
    answers = []
    for task, holder, outcome in zip(tasks, reply[::2], reply[1::2], strict=True):
        word, task_id = outcome.decode(), holder.decode()
        if word not in _ENQUEUED or (task_id != task.id and word != "duplicate"):
            raise ValueError(f"{word} for {task_id}, where {task.id} was asked for")
        answers.append(Enqueued(task_id, word))  # type: ignore[arg-type] # one of the contract's words
    return answers


def exchange_args(
    worker: str, settlements: Sequence[Settlement], fetch: FetchRequest | None, limits: Limits, max_crashes: int
) -> list[Arg]:
    args: list[Arg] = [worker, limits.dead_count, limits.dead_ttl_ms, max_crashes, len(settlements), 0]
    before = len(args)
    for one in settlements:
        args += (one.id, one.token, one.outcome.value, one.result, max(1, one.ttl_ms))
        if one.outcome.value != "succeeded":
            args += (
                one.error,
                line_safe(one.error_type),
                line_safe(one.reason),
                max(0, one.delay_ms),
                1 if one.unknown else 0,
            )
    args[before - 1] = len(args) - before
    if fetch is not None:
        args += (fetch.epoch, fetch.count, fetch.lease_ms, len(fetch.queues), *fetch.queues)
        for name, lease in fetch.leases.items():
            args += (name, lease)
    return args


def beat_args(beat: Beat, limits: Limits, *, leases: slice, first: bool) -> list[Arg]:
    """Return the arguments of one beat, or of a further chunk of its leases."""
    heartbeat = beat.heartbeat
    args: list[Arg] = [heartbeat.id, heartbeat.name, heartbeat.state, heartbeat.encode() if first else b""]
    chunk = beat.leases[leases]
    args += (limits.lost_after_ms, len(chunk))
    for lease in chunk:
        args += (lease.id, lease.token, lease.lease_ms, lease.queue)
    wanted = {lease.id for lease in chunk}
    progress = [(task_id, data) for task_id, data in beat.progress.items() if task_id in wanted]
    args.append(len(progress))
    for task_id, data in progress:
        args += (task_id, data)
    redacted = beat.redacted if first else {}
    args.append(len(redacted))
    for task, paths in redacted.items():
        args += (task, "\n".join(paths))
    if first:
        for one in beat.measured:
            for what, by in (("n", one.count), ("wait", one.wait_ms), ("run", one.run_ms)):
                args += (one.queue, one.task, what, by)
            for bucket, by in one.buckets.items():
                args += (one.queue, one.task, f"h{bucket}", by)
    return args


def issue_args(command: Command, change: Change | None) -> list[Arg]:
    name, option, kind, targets = _change_parts(change)
    meant = targets if change is not None else command.targets
    return [
        command.id,
        command.encode(),
        command.type,
        line_safe(command.actor),
        line_safe(command.reason),
        said_of(meant),
        name,
        option,
        kind,
        command.signature,
        len(meant),
        *targets,
    ]


def record_args(deed: Deed) -> list[Arg]:
    return [
        check_name("task id", deed.id),
        deed.verb,
        line_safe(deed.actor),
        line_safe(deed.reason),
        said_of(deed.targets),
        max(deed.count, len(deed.targets)),
        deed.kind,
        line_safe(deed.option),
    ]


def _change_parts(change: Change | None) -> tuple[str, str | int, str, Sequence[str]]:
    match change:
        case None:
            return "", "", "", ()
        case RevokeTasks():
            return "revoke", "terminate" if change.terminate else "", "", change.ids
        case SetPause():
            return "pause", _or_empty(change.for_ms), change.kind, change.targets
        case ClearPause():
            return "resume", "", change.kind, change.targets
        case SetDrain():
            return "drain", "", "", change.workers
        case ClearDrain():
            return "undrain", "", "", change.workers
        case SetShutdown():
            return "shutdown", change.mode, "", change.workers


def items_of(flat: Sequence[bytes]) -> list[ChangeItem]:
    """Build change items from the issue script's flat list of five per item."""
    values = [value.decode("utf-8", "replace") for value in flat]
    return [
        ChangeItem(target=target, outcome=outcome, changed=changed == "1", worker=worker, state=state)
        for target, outcome, changed, worker, state in zip(*(values[i::5] for i in range(5)), strict=True)
    ]


def seen_of(
    flat: Sequence[bytes], now_ms: int, *, decode: Callable[[bytes], Heartbeat] = Heartbeat.decode
) -> list[Seen]:
    """Build workers from a flat list of three (id, time, heartbeat); an unreadable one is left out."""
    seen = []
    for at, data in zip(flat[1::3], flat[2::3], strict=True):
        try:
            heartbeat = decode(data)
            at_ms = int(float(at))
        except (DecodeError, ValueError, OverflowError):  # a time that is no number, or infinite
            continue
        seen.append(Seen(heartbeat=heartbeat, at_ms=at_ms, age_ms=max(0, now_ms - at_ms)))
    return sorted(seen, key=by_name)


def by_name(seen: Seen) -> tuple[str, int]:
    """The order workers are listed in."""
    return seen.heartbeat.name, seen.heartbeat.started_at_ms


def line_safe(value: str) -> str:
    """Return foreign text fit for a tab-joined line."""
    return clean(value, 500) if value else ""
