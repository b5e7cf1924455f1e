"""What must hold of every task once the faults are over: I1 to I6, judged from the ledger and from the records.

The ledger is the witness: handlers and producers wrote it, outside the system under test. The records are asked what
they say of the same tasks, and the server is asked for what was left behind.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from stem.errors import BrokerError
from stem.messages.status import TaskStatus
from tests.faults.ledger import Account
from tests.faults.matrix.keyspace import strays
from tests.waiting import eventually

if TYPE_CHECKING:
    from tests.faults.matrix.stage import FaultWorld

DRAIN_S = 60.0
"""How long everything may take to end once the faults are healed: leases, backoff and a slow machine included."""


@dataclass(kw_only=True)
class Verdict:
    """What was found. `account` and `statuses` are there for a family's own questions."""

    account: Account
    statuses: dict[str, TaskStatus]
    tasks: int = 0
    lost: set[str] = field(default_factory=set)
    doubled: set[str] = field(default_factory=set)
    extra_starts: int = 0
    unexplained: dict[str, int] = field(default_factory=dict)
    recovery_s: float | None = None
    violations: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def expect(self, holds: bool, otherwise: str) -> None:
        """Note a violation unless it holds."""
        if not holds:
            self.violations.append(otherwise)


async def judge(
    world: FaultWorld,
    *,
    timeout: float = DRAIN_S,
    forgiven: Collection[str] = (),
    rewound: Collection[str] = (),
    counts: bool = True,
    keys: bool = True,
) -> Verdict:
    """Wait until every acknowledged task has ended and nothing is in flight, then check the invariants.

    All faults must be healed and workers alive before. `world.disturbances` say which extra starts are explained.

    Args:
        timeout: seconds until everything has to have ended.
        forgiven: ids that the server itself lost (FLUSHALL, failover, a cut AOF): reported by the family, not counted.
        rewound: ids of which the server forgot the newest part: they may start and end again, but not be lost.
        counts: compare the server's statistics with the records; not after a server lost writes, nor over 3 hours.
        keys: look for keys that nobody knows or owns.
    """
    account = world.ledger.read()
    acked = sorted(account.ids("acked") - set(forgiven))
    statuses = await _ended(world, acked, timeout)
    account = world.ledger.read()
    verdict = Verdict(account=account, statuses=statuses, tasks=len(acked))
    _check_tasks(verdict, world, acked, {*forgiven, *rewound})
    await _check_queues(verdict, world)
    if counts:
        await _check_counts(verdict, world)
    if keys:
        verdict.violations += await strays(world.url, world.namespace, world.broker)
    return verdict


async def _ended(world: FaultWorld, acked: list[str], timeout: float) -> dict[str, TaskStatus]:
    """Return the statuses of all, final where they became so in time."""
    deadline = time.monotonic() + timeout
    found: dict[str, TaskStatus] = {}

    async def all_final() -> bool:
        open_ids = [task_id for task_id in acked if task_id not in found or not found[task_id].state.final]
        for first in range(0, len(open_ids), 500):
            chunk = open_ids[first : first + 500]
            try:
                rows = await world.broker.statuses(chunk, timeline=False)
            except BrokerError:  # the server is only just back
                return False
            found.update({status.id: status for status in rows if status is not None})
        return all(task_id in found and found[task_id].state.final for task_id in acked)

    with contextlib.suppress(AssertionError):  # what is still open then counts as lost, by name
        await eventually(all_final, max(0.0, deadline - time.monotonic()))
    return found


def _check_tasks(verdict: Verdict, world: FaultWorld, acked: list[str], forgiven: set[str]) -> None:
    account = verdict.account
    statuses = verdict.statuses
    verdict.lost = {task_id for task_id in acked if task_id not in statuses or not statuses[task_id].state.final}
    for task_id in sorted(verdict.lost)[:5]:
        status = statuses.get(task_id)
        lines = ", ".join(f"{line.kind}@{line.pid}" for line in account.of(task_id)[-8:])
        verdict.violations.append(f"{task_id} is {status.state.value if status else 'without a record'}: {lines}")
    twice = {task_id for task_id in account.finished_twice() if task_id not in forgiven}
    verdict.doubled = twice
    for task_id in sorted(twice)[:5]:
        verdict.violations.append(
            f"{task_id} ended more than once: {[(line.kind, line.pid) for line in account.of(task_id)]}"
        )
    phantoms = account.phantoms()
    verdict.expect(not phantoms, f"started, and no producer tried them: {sorted(phantoms)[:5]}")
    overlaps = {task_id: token for task_id, token in account.overlaps().items() if task_id not in forgiven}
    verdict.expect(not overlaps, f"two runs with one token: {list(overlaps.items())[:5]}")
    bad = {task_id: run for task_id, run in account.bad_tokens().items() if task_id not in forgiven}
    verdict.expect(not bad, f"tokens that do not grow: {list(bad.items())[:5]}")
    verdict.extra_starts = sum(
        count - 1 - retries for count, retries in _starts_and_retries(account) if count > 1 + retries
    )
    verdict.unexplained = {
        task_id: count
        for task_id, count in account.unexplained_starts(world.disturbances).items()
        if task_id not in forgiven
    }
    for task_id in list(verdict.unexplained)[:5]:
        lines = ", ".join(f"{line.kind}@{line.pid}:{line.token}" for line in account.of(task_id))
        verdict.violations.append(f"{task_id} was started once more than retries and faults explain: {lines}")


def _starts_and_retries(account: Account) -> list[tuple[int, int]]:
    starts = Counter(line.id for line in account.lines if line.kind == "start")
    retries = Counter(line.id for line in account.lines if line.kind == "retry")
    return [(count, retries[task_id]) for task_id, count in starts.items()]


async def _check_queues(verdict: Verdict, world: FaultWorld) -> None:
    """I6: nothing is stuck in a queue."""

    async def empty() -> bool:
        rows = await world.broker.census.queues()
        return all(row.ready == row.in_flight == row.retrying == row.delayed == row.held == 0 for row in rows)

    try:
        await eventually(empty, 15.0)
    except AssertionError:
        for row in await world.broker.census.queues():
            verdict.violations.append(
                f"left in {row.name}: ready {row.ready}, in flight {row.in_flight}, delayed {row.delayed}, "
                f"retrying {row.retrying}, held {row.held}"
            )


async def _check_counts(verdict: Verdict, world: FaultWorld) -> None:
    """The scripts count each end where they record it: more ends counted than tasks ended would be a second one."""
    totals: Counter[str] = Counter()
    for row in await world.broker.census.minutes(180):
        totals.update(row.counts)
    ended = totals["succeeded"] + totals["failed"] + totals["revoked"] + totals["expired"]
    known = verdict.account.ids("tried", "acked")
    rest = sorted(known - verdict.statuses.keys())
    extra = 0
    for first in range(0, len(rest), 500):  # of unknown outcome: they may have been enqueued
        rows = await world.broker.statuses(rest[first : first + 500], timeline=False)
        extra += sum(status is not None and status.state.final for status in rows)
    final = sum(status.state.final for status in verdict.statuses.values()) + extra
    verdict.expect(ended == final, f"{ended} ends are counted by the server, {final} tasks ended")
