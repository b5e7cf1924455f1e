"""Settling deliveries and handing out others: what a busy worker does all the time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from stem.adapters.memory.core import ANSWER_BYTES, DAY_MS, Core
from stem.adapters.memory.line import Line
from stem.adapters.memory.record import Record
from stem.contracts import Delivery, Exchange, Expired, FetchRequest, Outcome, SettleAnswer, Settlement
from stem.messages.status import TaskState

SKIP_LIMIT: Final = 200
MAX_CRASHES: Final = 3
SETTLED_KEPT: Final = 4
"""Tokens of ends that are remembered: a worker whose answer got lost may repeat itself after others have gone on."""
LAST_CHANCE: Final = MAX_CRASHES - 1
"""So many crashes, and one more buries the task. A worker holds only one such task at a time: whatever runs beside a
poisonous one shares its crashes, and would be buried with it. The others are put off, for whoever is free then."""
SUSPECT_DELAY_MS: Final = 1_000
_TO_RUN_AGAIN: Final = (Outcome.RETRY, Outcome.GIVE_BACK, Outcome.CRASHED)
_REVOCABLE: Final = (*_TO_RUN_AGAIN, Outcome.DEAD)
"""What a task that was revoked while it ran does not come to: it never starts again, also not from the dead letters."""


def exchange(
    core: Core, worker: str, settlements: Sequence[Settlement], request: FetchRequest | None, now: int
) -> Exchange:
    """Settle, then fetch; see `Broker.exchange`."""
    settled = tuple(_settle(core, worker, settlement, now) for settlement in settlements)
    answer = _fetch(core, worker, request, now) if request is not None else Exchange(now_ms=now)
    answer.settled = settled
    return answer


# ------------------------------------------------------------------------------------------------------------ settling


def _settle(core: Core, worker: str, settlement: Settlement, now: int) -> SettleAnswer:
    record = core.record(settlement.id, now)
    if record is None:
        return "lost"
    if not core.holds(record, worker, settlement.token):
        if settlement.token not in record.settled_tokens:
            return "lost"
        return _again(record, settlement)
    answer: SettleAnswer = "applied"
    outcome, reason = settlement.outcome, settlement.reason
    if settlement.error:
        record.error = settlement.error
    if record.revoking and outcome in _REVOCABLE:
        outcome, reason, answer = Outcome.REVOKED, record.revoke_reason, "revoked"
    if outcome is Outcome.CRASHED:
        record.crashes += 1
        core.stats.count(now, record.queue, record.task, "crashed")
        if record.crashes >= MAX_CRASHES:
            outcome, reason, answer = Outcome.DEAD, "poison", "buried"
    record.settled_tokens = (settlement.token, *record.settled_tokens[: SETTLED_KEPT - 1])
    if outcome in _TO_RUN_AGAIN:
        _run_again(core, record, settlement, outcome, now)
        return "applied"
    if outcome is Outcome.SUCCEEDED:
        record.result = settlement.result
    elif outcome is Outcome.REVOKED and not reason:
        reason = record.revoke_reason
    core.finish(
        record,
        TaskState.FAILED if outcome is Outcome.DEAD else TaskState(outcome.value),
        now,
        ttl_ms=None if outcome is Outcome.DEAD else settlement.ttl_ms,
        reason=reason,
        error_type=settlement.error_type,
        worker=worker,
    )
    return answer


def _again(record: Record, settlement: Settlement) -> SettleAnswer:
    """Return what is said of an end that counted before: what only its worker can tell of is said once more."""
    if settlement.token == record.token and settlement.outcome in _REVOCABLE:
        if record.state is TaskState.REVOKED and record.revoking:
            return "revoked"
        poison = record.state is TaskState.FAILED and record.reason == "poison"
        if poison and settlement.outcome is Outcome.CRASHED:
            return "buried"
    return "already"


def _run_again(core: Core, record: Record, settlement: Settlement, outcome: Outcome, now: int) -> None:
    worker = record.owner
    core.take_back(record)
    if outcome is Outcome.RETRY:
        record.attempt += 1
        record.note(now, "retried", worker=worker, detail=settlement.error_type or settlement.reason)
        core.stats.count(now, record.queue, record.task, "retried")
    elif outcome is Outcome.GIVE_BACK:
        record.note(now, "handed_back", worker=worker, detail=settlement.reason)
        core.stats.count(now, record.queue, record.task, "handed_back")
        if settlement.unknown:
            record.give_backs += 1
            record.first_give_back_ms = record.first_give_back_ms or now
    else:
        record.note(now, "crashed", worker=worker, detail=settlement.reason)
    if outcome is not Outcome.GIVE_BACK or not settlement.unknown:  # somebody knew it: it is not unknown since then
        record.give_backs = record.first_give_back_ms = 0
    if settlement.delay_ms > 0:
        ring = core.make_wait(record, now + settlement.delay_ms, retrying=outcome is Outcome.RETRY)
    else:
        core.make_ready(record, now)
        ring = True
    if ring:
        core.bells.ring(record.queue)


# ------------------------------------------------------------------------------------------------------------ fetching


@dataclass(slots=True)
class _Taken:
    """What one fetch took out of the queues, to tell of it."""

    deliveries: list[Delivery] = field(default_factory=list)
    expired: list[Expired] = field(default_factory=list)
    used: int = 0

    def has_room(self, body: bytes) -> bool:
        """Say whether the answer takes this body too; it always takes one."""
        return self.used + len(body) <= ANSWER_BYTES or not (self.deliveries or self.expired)


def _fetch(core: Core, worker: str, request: FetchRequest, now: int) -> Exchange:
    if request.epoch < core.log.fence:
        return Exchange(stale=True, now_ms=now)
    next_due = core.desired.next_end_ms()
    if core.desired.paused("worker", worker) or core.desired.paused("worker", core.fleet.name(worker)):
        return Exchange(next_due_ms=_in(next_due, now), now_ms=now)
    taken = _Taken()
    skips, full, more = SKIP_LIMIT, False, False
    for queue in dict.fromkeys(request.queues):
        line = core.lines.get(queue)
        if line is None or core.desired.paused("queue", queue):
            continue
        core.promote(line, now)
        if not full:
            skipped, full = _take(core, line, worker, request, skips, taken, now)
            skips -= skipped
        due = line.next_due_ms()  # some may just have been put off
        if due is not None and (next_due is None or due < next_due):
            next_due = due
        if line.ready and (len(taken.deliveries) >= request.count or skips <= 0 or full):
            more = True
            # Whoever leaves work behind wakes the next one; this worker has what it asked for.
            core.bells.ring(queue)
    return Exchange(
        deliveries=taken.deliveries, more=more, next_due_ms=_in(next_due, now), now_ms=now, expired=taken.expired
    )


def _take(
    core: Core, line: Line, worker: str, request: FetchRequest, skips: int, taken: _Taken, now: int
) -> tuple[int, bool]:
    """Hand out from one queue, 9 to 0; return how many were taken out because they must not run now.

    And whether the answer is full: the next body has no room in it.
    """
    deliveries = taken.deliveries
    skipped = 0
    while len(deliveries) < request.count and skipped < skips:
        task_id = line.ready.first()
        if task_id is None:
            break
        record = core.records[task_id]
        if record.expires_ms is not None and record.expires_ms <= now:
            if not taken.has_room(record.body):
                return skipped, True
            taken.used += len(record.body)
            again = " again" if record.token else ""
            core.finish(record, TaskState.EXPIRED, now, ttl_ms=DAY_MS, reason=f"expired before it could start{again}")
            taken.expired.append(record.expired())
            skipped += 1
        elif core.desired.paused("task", record.task):
            core.hold(record)
            skipped += 1
        elif record.crashes >= LAST_CHANCE and _holds_suspect(core, worker):
            core.make_wait(record, now + SUSPECT_DELAY_MS, retrying=False)
            skipped += 1
        elif not taken.has_room(record.body):
            return skipped, True
        else:
            taken.used += len(record.body)
            lease_ms = record.lease_ms or request.leases.get(record.task, request.lease_ms)
            core.start(record, worker, lease_ms, now)
            deliveries.append(record.delivery())
    return skipped, False


def _holds_suspect(core: Core, worker: str) -> bool:
    return any(core.records[task_id].crashes >= LAST_CHANCE for task_id in core.owned.get(worker, ()))


def _in(at_ms: int | None, now: int) -> int | None:
    return None if at_ms is None else max(0, at_ms - now)
