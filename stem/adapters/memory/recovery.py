"""Leases: renewed, run out, found again; and the check that every waiting task stands somewhere."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from stem.adapters.memory.core import ANSWER_BYTES, DAY_MS, Core
from stem.adapters.memory.line import Line
from stem.adapters.memory.record import Place, Record
from stem.contracts import Delivery, Lease, Swept
from stem.errors import InvalidInputError
from stem.messages.status import ErrorInfo, TaskState

SWEEP_LIMIT: Final = 100


def renew(core: Core, worker: str, lease: Lease, now: int) -> Record | None:
    """Renew one lease from now; return the task's record, None when this worker does not hold it any more."""
    record = core.record(lease.id, now)
    if record is None or not core.holds(record, worker, lease.token):
        return None
    core.lines[record.queue].put(record, Place.LEASED, now + lease.lease_ms)
    return record


def adopt(core: Core, worker: str, queues: Sequence[str], known: Collection[str], now: int) -> list[Delivery]:
    """Return, with a fresh lease, what a worker owns and does not know of; see `Broker.adopt`."""
    aware, wanted = frozenset(known), frozenset(queues)
    found: list[Delivery] = []
    used = 0
    for task_id in core.owned.get(worker, ()):
        record = core.records[task_id]
        if task_id in aware or record.queue not in wanted:
            continue
        if record.revoking:  # meanwhile: it must not begin, and the next sweep ends it
            core.lines[record.queue].put(record, Place.LEASED, now)
            continue
        # Not received for a whole lease, and renewed for ever it would be kept from all others: left to its lease.
        if now - (record.started_ms or 0) > record.lease_granted_ms:
            continue
        used += len(record.body)
        if found and used > ANSWER_BYTES:
            break
        core.lines[record.queue].put(record, Place.LEASED, now + record.lease_granted_ms)
        found.append(record.delivery())
    return found


def sweep(core: Core, queues: Sequence[str], max_crashes: int, now: int) -> Swept:
    """Take back what nobody renews; see `Broker.sweep`."""
    if core.fleet.outage(now):
        return Swept(skipped="outage")
    requeued = buried = 0
    looked = more = False
    for queue in dict.fromkeys(queues):
        line = core.lines.get(queue)
        if line is None:
            looked = True
            continue
        # One look a second (of a heartbeat every two) is enough for the whole fleet. One that lies ahead is long ago:
        # the clock was set back since.
        if line.swept_ms is not None and 0 <= now - line.swept_ms < core.limits.lost_after_ms // 6:
            continue
        looked = True
        core.trim_dead(line, now)
        back, dead, full = _sweep_line(core, line, max_crashes, now)
        requeued, buried, more = requeued + back, buried + dead, more or full
        if not full:
            line.swept_ms = now
    return Swept(requeued=requeued, buried=buried, skipped="" if looked or not queues else "recent", more=more)


def _sweep_line(core: Core, line: Line, max_crashes: int, now: int) -> tuple[int, int, bool]:
    """Return how many went back, how many were buried, and whether there may be more."""
    requeued = buried = 0
    full = True
    for _ in range(SWEEP_LIMIT):
        deadline, task_id = line.leased.first_score(), line.leased.first()
        if deadline is None or task_id is None or deadline > now:
            full = False
            break
        if _reclaim(core, core.records[task_id], max_crashes, now):
            buried += 1
        elif core.records[task_id].state is TaskState.QUEUED:
            requeued += 1
    if requeued:
        core.bells.ring(line.name)
    return requeued, buried, full


def _reclaim(core: Core, record: Record, max_crashes: int, now: int) -> bool:
    """Take one task from its owner; True if that made it a dead letter."""
    owner = record.owner
    lost = not core.fleet.alive(owner, now)
    record.note(now, "reclaimed", worker=owner, detail="the worker was lost" if lost else "the lease ran out")
    if lost:
        record.crashes += 1
        core.stats.count(now, record.queue, record.task, "crashed")
    if record.revoking:
        core.finish(record, TaskState.REVOKED, now, ttl_ms=DAY_MS, reason=record.revoke_reason, worker=owner)
        return False
    if lost and record.crashes >= max_crashes:
        message = f"{record.crashes} workers were lost while they ran this task, the last one was {owner}"
        record.error = ErrorInfo(type="WorkerLostError", message=message).encode()
        core.finish(
            record, TaskState.FAILED, now, ttl_ms=None, reason="poison", error_type="WorkerLostError", worker=owner
        )
        return True
    core.take_back(record)
    record.give_backs = record.first_give_back_ms = 0  # it ran: somebody knew it
    core.make_ready(record, now)
    return False


def reconcile(core: Core, cursor: str, limit: int, now: int) -> tuple[str, int]:
    """Look at some records and mend those that stand nowhere; see `Broker.reconcile`.

    Raises:
        InvalidInputError: a cursor that was not made here.
    """
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) <= 18):
        raise InvalidInputError(f"{cursor[:40]!a} is not a cursor of reconcile: start with '0'")
    page: list[Record] = []
    at = int(cursor)
    for key, task_id in core.order.after((at, 0)):
        if len(page) >= limit:
            return str(at), _mend(core, page, now)
        page.append(core.records[task_id])
        at = key[0]
    return "0", _mend(core, page, now)


def _mend(core: Core, page: Sequence[Record], now: int) -> int:
    repaired = 0
    for record in page:
        if record.state.final or core.lines[record.queue].stands(record):
            continue
        if record.state in (TaskState.SCHEDULED, TaskState.RETRYING):
            core.make_wait(record, record.due_ms or now, retrying=record.state is TaskState.RETRYING)
        else:
            core.take_back(record)
            core.make_ready(record, now)
        record.note(now, "reconciled")
        core.bells.ring(record.queue)
        repaired += 1
    return repaired
