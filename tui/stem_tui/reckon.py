"""How much a plan would change at this moment, as the broker says: counted before it is asked, and again after the yes.

Reads only, in pages, and never without a bound. No widget here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any, Final

from stem.contracts import Broker, ListState, QueueRow
from stem.messages.status import TaskStatus
from stem.observe.rows import QueueLine, TaskLine
from stem.observe.state import ClusterState
from stem.text import clean
from stem_tui import plans
from stem_tui.filter import Test
from stem_tui.plans import Plan, Reckoned

PAGE: Final = 500
MOST: Final = 10_000
"""Tasks that are acted upon at once; with more of them it is to be done again."""
LOOKED_AT: Final = 100_000
"""Tasks that are read to find those that pass a filter."""
_WAITING: Final[tuple[ListState, ...]] = ("queued", "retrying", "scheduled", "held")


@dataclass(frozen=True, slots=True)
class Everything:
    """All tasks in these states that pass a filter, also those that no list holds.

    Attributes:
        queue: only of this one; None: of all.
        now_ms: the moment that ages in the filter are counted to.
    """

    states: Sequence[ListState]
    test: Test | None
    now_ms: int
    queue: str | None = None


@dataclass(frozen=True, slots=True)
class Gathered:
    """Tasks that were found; `cut` says that there are more."""

    rows: Sequence[TaskLine]
    cut: bool


async def gather(
    broker: Broker,
    state: ClusterState,
    which: Everything,
    *,
    most: int = MOST,
    by: Callable[[TaskLine], str] = attrgetter("key"),
) -> Gathered:
    """Page through the broker and return the tasks meant.

    Args:
        most: so many at most.
        by: one is returned of those that have this in common.

    Raises:
        BrokerError: a page could not be had.
    """
    rows: dict[str, TaskLine] = {}
    looked = 0
    for each in which.states:
        cursor: str | None = None
        while True:
            page = await broker.census.tasks(each, queue=which.queue, cursor=cursor, limit=PAGE)
            looked += len(page.items)
            for status in page.items:
                row = _line(status, each, state)
                if which.test is None or which.test(row, which.now_ms):
                    rows[by(row)] = row
            if len(rows) > most or (looked >= LOOKED_AT and page.next is not None):
                return Gathered(list(rows.values())[:most], cut=True)
            cursor = page.next
            if cursor is None:
                break
    return Gathered(list(rows.values()), cut=False)


def _line(status: TaskStatus, state: str, known: ClusterState) -> TaskLine:
    row = TaskLine(status.id, clean(status.id, 64))
    row.status(status, state)
    row.owner, row.worker = known.owner(status.worker or "")
    return row


async def reckon(plan: Plan, broker: Broker, state: ClusterState, which: Everything | None = None) -> Reckoned:
    """Return what the plan would change now.

    Args:
        which: instead of the plan's rows, all tasks that are meant.

    Raises:
        BrokerError: it could not be had.
    """
    match plan.action.scope:
        case "task" if not plan.action.pauses:
            found = Gathered(plan.rows, False)
            if which is not None:
                # Not through a long queue to find what it can be done to: that is in no such state.
                where = [each for each in which.states if _applies(plan.action.id, each)]
                found = await gather(broker, state, replace(which, states=where))
            rows = [row for row in await _current(broker, state, found.rows) if _applies(plan.action.id, row.state)]
            return Reckoned(rows=rows, amount=len(rows), samples=plans.samples(rows), cut=found.cut)
        case "queue" if not plan.action.pauses:
            return await _queues(plan, broker, state)
        case "worker" if not plan.action.pauses:
            there = {seen.heartbeat.id for seen in await broker.presence.workers() if not seen.stopped}
            rows = [row for row in plan.rows if row.key in there]
            return Reckoned(rows=rows, amount=len(rows), samples=plans.samples(rows))
    cut = False
    if which is not None:
        # A name is paused, not a task: one row of each, those in no list of the broker's (what has ended) too.
        found = await gather(broker, state, which, by=attrgetter("task"))
        rows_of = {row.task: row for row in (*plan.rows, *found.rows)}
        plan, cut = replace(plan, rows=[rows_of[name] for name in sorted(rows_of)]), found.cut
    names = plans.targets(plan, state)
    samples = [clean(name) for name in names[: plans.SAMPLES]]
    return Reckoned(rows=_one_each(plan, state), amount=len(names), samples=samples, cut=cut)


def _one_each(plan: Plan, state: ClusterState) -> list[Any]:
    """Return the rows without those that name only what another one names: as many as were agreed to are cut off."""
    rows, named = [], set[str]()
    for row in plan.rows:
        names = plans.targets(replace(plan, rows=[row]), state)
        if not named.issuperset(names):
            rows.append(row)
            named.update(names)
    return rows


async def _current(broker: Broker, state: ClusterState, rows: Sequence[TaskLine]) -> list[TaskLine]:
    """Return these tasks as their records say they are now; those without one are gone."""
    found: list[TaskLine] = []
    for at in range(0, len(rows), PAGE):
        ids = [row.key for row in rows[at : at + PAGE]]
        for status in await broker.statuses(ids, timeline=False):
            if status is not None:
                shown = "dead" if status.state == "failed" else status.state.value
                found.append(_line(status, shown, state))
    return found


def _applies(action_id: str, state: str) -> bool:
    match action_id:
        case "task.retry":
            return state in ("scheduled", "retrying", "dead")
        case "task.discard":
            return state == "dead"
    return state not in ("succeeded", "dead", "revoked", "expired")


async def _queues(plan: Plan, broker: Broker, state: ClusterState) -> Reckoned:
    rows: list[QueueLine] = list(plan.rows)
    states: Iterable[ListState] = _WAITING if plan.action.id == "queue.purge" else ("dead",)
    counted = await broker.census.queues([row.key for row in rows])
    amounts = {row.name: _count(row, plan.action.id) for row in counted}
    amounts = {row.key: amounts[row.key] for row in rows if amounts.get(row.key)}
    shown: list[Any] = []
    for name in amounts:
        for each in states:
            if len(shown) < plans.SAMPLES:
                page = await broker.census.tasks(each, queue=name, limit=plans.SAMPLES - len(shown))
                shown += [_line(status, each, state) for status in page.items]
    left = [row for row in rows if row.key in amounts]
    return Reckoned(rows=left, amount=sum(amounts.values()), amounts=amounts, samples=plans.samples(shown))


def _count(row: QueueRow, action_id: str) -> int:
    return row.ready + row.delayed + row.retrying + row.held if action_id == "queue.purge" else row.dead
