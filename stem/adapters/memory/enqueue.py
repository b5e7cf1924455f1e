"""Taking new tasks in."""

from __future__ import annotations

from collections.abc import Sequence

from stem.adapters.memory.core import DAY_MS, Core
from stem.adapters.memory.record import Record
from stem.contracts import Enqueued, NewTask
from stem.errors import InvalidInputError
from stem.messages.envelope import asked
from stem.messages.names import check_name
from stem.messages.status import TaskState


def enqueue(core: Core, tasks: Sequence[NewTask], now: int) -> list[Enqueued]:
    """Take a batch in order; see `Broker.enqueue`.

    Raises:
        InvalidNameError, InvalidInputError: something in the batch is ill-formed; nothing of it was taken.
    """
    for task in tasks:
        check_name("task id", task.id)
        check_name("task", task.task)
        check_name("queue", task.queue)
        if not 0 <= task.priority <= 9:
            raise InvalidInputError(f"priority {task.priority} of task {task.id} is not 0 to 9")
    rung: dict[str, None] = {}
    answers = [_take(core, task, now, rung) for task in tasks]
    for queue in rung:
        core.bells.ring(queue)
    return answers


def _take(core: Core, task: NewTask, now: int, rung: dict[str, None]) -> Enqueued:
    known = core.record(task.id, now)
    if known is not None:
        # A purged one has no body to compare with any more: the id decides.
        same = known.body in (task.body, b"") or asked(known.body) == asked(task.body)
        return Enqueued(task.id, "exists" if same else "conflict")
    tombstone = core.exhume_id(task.id, now)
    if tombstone is not None:
        record = _record(core, task, now)
        core.finish(record, TaskState.REVOKED, now, ttl_ms=DAY_MS, reason=tombstone)
        return Enqueued(task.id, "revoked")
    holder = core.holder(task.task, task.unique_key, now)
    if holder is not None:
        return Enqueued(holder.id, "duplicate")
    line = core.line(task.queue)
    limit = core.limits.queue_length
    if limit is not None and line.waiting >= limit:
        return Enqueued(task.id, "full")
    record = _record(core, task, now)
    if task.unique_key is not None:
        core.unique[task.task, task.unique_key] = task.id
    line.enqueued_total += 1
    core.stats.count(now, task.queue, task.task, "enqueued")
    due = now + task.delay_ms if task.delay_ms is not None else task.eta_ms
    if due is None or due <= now:
        core.make_ready(record, now)
        rung[task.queue] = None
        return Enqueued(task.id, "queued")
    if core.make_wait(record, due, retrying=False):
        # An idle worker sleeps until the earliest due time it knew: one must look again.
        rung[task.queue] = None
    return Enqueued(task.id, "scheduled")


def _record(core: Core, task: NewTask, now: int) -> Record:
    core.line(task.queue)
    record = Record(
        id=task.id,
        task=task.task,
        queue=task.queue,
        body=bytes(task.body),
        signature=bytes(task.signature),
        priority=task.priority,
        lease_ms=task.lease_ms,
        unique_key=task.unique_key,
        seq=0,
        enqueued_ms=now,
        expires_ms=now + task.expires_in_ms if task.expires_in_ms is not None else task.expires_ms,
    )
    core.keep(record)
    record.note(now, "enqueued")
    return record
