"""What operators do to tasks and to desired state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from stem.adapters.memory.core import DAY_MS, Core
from stem.adapters.memory.line import Line
from stem.adapters.memory.record import Place, Record
from stem.contracts import (
    Change,
    ChangeItem,
    ClearDrain,
    ClearPause,
    Pause,
    RevokeTasks,
    SetDrain,
    SetPause,
    SetShutdown,
)
from stem.messages.command import Command
from stem.messages.status import TaskState


def apply(core: Core, command: Command, change: Change, now: int) -> list[ChangeItem]:
    """Carry out a change, target by target."""
    desired = core.desired
    match change:
        case RevokeTasks():
            return [_revoke(core, task_id, command.reason, now) for task_id in change.ids]
        case SetPause():
            return [
                desired.set_pause(
                    Pause(
                        kind=change.kind,
                        target=target,
                        actor=command.actor,
                        reason=command.reason,
                        at_ms=now,
                        until_ms=None if change.for_ms is None else now + change.for_ms,
                    )
                )
                for target in change.targets
            ]
        case ClearPause():
            items = [desired.clear_pause(change.kind, target) for target in change.targets]
            if change.kind == "task":
                for target in change.targets:
                    core.release_held(target, now)
            _ring_all(core)
            return items
        case SetDrain():
            desired.forget_unknown(core.fleet.knows)
            return [desired.set_drain(worker) for worker in change.workers]
        case ClearDrain():
            cleared = [desired.clear_drain(worker) for worker in change.workers]
            _ring_all(core)
            return cleared
        case SetShutdown():
            desired.forget_unknown(core.fleet.knows)
            return [desired.set_shutdown(worker, change.mode) for worker in change.workers]


def _ring_all(core: Core) -> None:
    for queue in core.lines:
        core.bells.ring(queue)


def _revoke(core: Core, task_id: str, reason: str, now: int) -> ChangeItem:
    record = core.record(task_id, now)
    if record is None:
        new = core.bury_id(task_id, now, reason)
        if new:
            return ChangeItem(target=task_id, outcome="stored", changed=True)
        return ChangeItem(target=task_id, outcome="already", changed=False, state=TaskState.REVOKED.value)
    state = record.state
    if state is TaskState.REVOKED:
        return ChangeItem(target=task_id, outcome="already", changed=False, state=state.value)
    if state.final:
        return ChangeItem(target=task_id, outcome="final", changed=False, state=state.value)
    if state is TaskState.RUNNING:
        first = not record.revoking
        if first:
            record.revoking, record.revoke_reason = True, reason
            record.note(now, "revoke asked", worker=record.owner, detail=reason)
        return ChangeItem(
            target=task_id, outcome="running", changed=first, worker=record.owner, state=TaskState.RUNNING.value
        )
    core.finish(record, TaskState.REVOKED, now, ttl_ms=DAY_MS, reason=reason)
    return ChangeItem(target=task_id, outcome="revoked", changed=True, state=state.value)


def replay(core: Core, ids: Sequence[str], now: int) -> dict[str, str]:
    """Give dead letters a new life; see `Broker.replay`."""
    return {task_id: _replay(core, task_id, now) for task_id in ids}


def _replay(core: Core, task_id: str, now: int) -> str:
    record = core.record(task_id, now)
    if record is None:
        return "unknown"
    if record.place is not Place.DEAD:
        return "not-dead"
    return core.replay(record, now)


def retry_now(core: Core, ids: Sequence[str], now: int) -> dict[str, str]:
    """Make tasks due at once; see `Broker.retry_now`."""
    return {task_id: _retry_now(core, task_id, now) for task_id in ids}


def _retry_now(core: Core, task_id: str, now: int) -> str:
    record = core.record(task_id, now)
    if record is None:
        return "unknown"
    if record.place is Place.DEAD:
        return core.replay(record, now)
    if record.state.final:
        return "final"
    if record.place not in (Place.DELAYED, Place.RETRYING):
        return "already"
    core.make_ready(record, now)
    core.bells.ring(record.queue)
    return "queued"


def purge(core: Core, queue: str, what: Literal["waiting", "dead"], limit: int, now: int) -> int:
    """Remove a bounded number of tasks of a queue; see `Broker.purge`."""
    line = core.lines.get(queue)
    if line is None:
        return 0
    if what == "dead":
        gone = 0
        while gone < limit and (oldest := line.dead.last()) is not None:
            core.drop_dead(core.records[oldest], now)
            gone += 1
        return gone
    doomed = _some_waiting(core, line, limit)
    for record in doomed:
        record.note(now, "purged")
        core.finish(record, TaskState.REVOKED, now, ttl_ms=DAY_MS, reason="purged")
        record.body = record.signature = b""
    return len(doomed)


def _some_waiting(core: Core, line: Line, limit: int) -> list[Record]:
    found: list[Record] = []
    for place in (Place.READY, Place.RETRYING, Place.DELAYED, Place.HELD):
        for _key, task_id in line.after(place, None):
            if len(found) >= limit:
                return found
            found.append(core.records[task_id])
    return found


def discard(core: Core, queue: str, ids: Sequence[str], now: int) -> int:
    """Remove these dead letters of a queue; see `Broker.discard`."""
    gone = 0
    for task_id in ids:
        record = core.record(task_id, now)
        if record is not None and record.place is Place.DEAD and record.queue == queue:
            core.drop_dead(record, now)
            gone += 1
    return gone
