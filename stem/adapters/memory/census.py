"""Counts and listings, read only."""

from __future__ import annotations

import heapq
import itertools
import re
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from stem.adapters.memory.core import Core
from stem.adapters.memory.handle import Handle
from stem.adapters.memory.line import Line
from stem.adapters.memory.ordered import Key
from stem.adapters.memory.record import Place
from stem.adapters.memory.stats import ROWS_KEPT
from stem.contracts import (
    AuditPage,
    Examination,
    FinalRow,
    ListState,
    MinuteRow,
    Overdue,
    Pause,
    QueueRow,
    Seen,
    ServerInfo,
    TaskPage,
)
from stem.errors import InvalidInputError
from stem.messages.status import TaskState, TaskStatus

PAGE_LIMIT: Final = 1_000
_PLACE_CURSOR: Final = re.compile(r"(-?[0-9]{1,18})\.(-?[0-9]{1,18})")
_HISTORY_CURSOR: Final = re.compile(r"h([0-9]{1,18})")
_PLACES: Final[dict[str, Place]] = {
    "queued": Place.READY,
    "running": Place.LEASED,
    "scheduled": Place.DELAYED,
    "retrying": Place.RETRYING,
    "held": Place.HELD,
    "dead": Place.DEAD,
}


class InMemoryCensus:
    """See `stem.contracts.Census`."""

    def __init__(self, handle: Handle, url: str) -> None:
        self._core = handle.core
        self._url = url

    async def queues(self, names: Sequence[str] = (), *, workers: Sequence[Seen] | None = None) -> list[QueueRow]:
        core = self._core
        with core.step() as now:
            consumers = core.fleet.consumers(now)
            known = sorted(core.lines if not names else {name for name in names if name in core.lines})
            return [_row(core, core.lines[name], consumers.get(name, 0), now) for name in known]

    async def tasks(
        self, state: ListState, *, queue: str | None = None, cursor: str | None = None, limit: int = 50
    ) -> TaskPage:
        limit = max(1, min(limit, PAGE_LIMIT))
        with self._core.step() as now:
            place = _PLACES.get(state)
            if place is None:
                return _final_page(self._core, TaskState(state), queue, cursor, limit, now)
            return _page(self._core, place, queue, cursor, limit, now)

    async def history(self, limit: int = 1_000) -> list[FinalRow]:
        with self._core.step():
            rows = itertools.islice(self._core.history.newest(), max(0, min(limit, ROWS_KEPT)))
            return [row for _number, row in rows]

    async def minutes(self, count: int = 60) -> list[MinuteRow]:
        with self._core.step() as now:
            return self._core.stats.rows(now, count)

    async def pauses(self) -> list[Pause]:
        with self._core.step():
            return self._core.desired.pauses

    async def audit(
        self,
        *,
        verb: str | None = None,
        actor: str | None = None,
        target: str | None = None,
        cursor: str | None = None,
        limit: int = 50,
    ) -> AuditPage:
        with self._core.step():
            return self._core.audit.page(verb=verb, actor=actor, target=target, cursor=cursor, limit=limit)

    async def redacted(self, task: str) -> tuple[str, ...]:
        with self._core.step():
            return tuple(sorted(self._core.fleet.redacted.get(task, ())))

    async def examine(self, *, keys: int = 50_000) -> Examination:
        """There are no keys here to look at, and no settings: only leases."""
        with self._core.step() as now:
            overdue = []
            for line in self._core.lines.values():
                late = [now - key[0] for key, _ in itertools.islice(line.leased.after(), 100) if key[0] <= now]
                if late:
                    overdue.append(Overdue(queue=line.name, tasks=len(late), late_ms=max(late)))
            return Examination(overdue=tuple(overdue))

    async def info(self) -> ServerInfo:
        with self._core.step() as now:
            return ServerInfo(
                kind="memory",
                version=_version(),
                url=self._url,
                namespace=self._core.namespace,
                persistent=False,
                clients=self._core.handles,
                uptime_s=max(0, now - self._core.born_ms) // 1000,
                now_ms=now,
            )


def _version() -> str:
    try:
        return version("stem-workers")
    except PackageNotFoundError:
        return "unknown"


def _row(core: Core, line: Line, consumers: int, now: int) -> QueueRow:
    since = [core.records[task_id].ready_ms for task_id in line.heads()]
    # What is due is ready, also where no fetch has moved it yet: where nobody fetches it stands there for good.
    delayed, retrying = line.delayed.count_to(now), line.retrying.count_to(now)
    due = line.next_due_ms()
    if due is not None and due <= now:
        since.append(due)
    return QueueRow(
        name=line.name,
        ready=len(line.ready) + delayed + retrying,
        delayed=len(line.delayed) - delayed,
        retrying=len(line.retrying) - retrying,
        held=line.count(Place.HELD),
        in_flight=len(line.leased),
        dead=len(line.dead),
        oldest_ms=max(0, now - min(since)) if since else None,
        pause=core.desired.pause("queue", line.name),
        consumers=consumers,
        enqueued_total=line.enqueued_total,
    )


def _page(core: Core, place: Place, queue: str | None, cursor: str | None, limit: int, now: int) -> TaskPage:
    after = None if cursor is None else _key(cursor)
    lines = list(core.lines.values()) if queue is None else [core.lines[queue]] if queue in core.lines else []
    if place is Place.DEAD:
        for line in lines:
            core.trim_dead(line, now)
    found = list(itertools.islice(heapq.merge(*(line.after(place, after) for line in lines)), limit + 1))
    return TaskPage(
        items=tuple(core.records[task_id].status(timeline=False, listed=True) for _key, task_id in found[:limit]),
        next=f"{found[limit - 1][0][0]}.{found[limit - 1][0][1]}" if len(found) > limit else None,
        total=sum(line.count(place) for line in lines),
    )


def _final_page(core: Core, state: TaskState, queue: str | None, cursor: str | None, limit: int, now: int) -> TaskPage:
    items: list[TaskStatus] = []
    last = 0
    for number, row in core.history.newest(None if cursor is None else _row_number(cursor)):
        if row.state is not state or (queue is not None and row.queue != queue):
            continue
        record = core.record(row.id, now)
        if record is not None and record.finished_ms != row.finished_at_ms:
            continue  # it was replayed since: what it is now stands elsewhere
        if len(items) == limit:
            return TaskPage(items=tuple(items), next=f"h{last}")
        last = number
        items.append(record.status(timeline=False, listed=True) if record is not None else _status(row))
    return TaskPage(items=tuple(items))


def _status(row: FinalRow) -> TaskStatus:
    """What is left of a task whose record has expired."""
    return TaskStatus(
        id=row.id,
        task=row.task,
        queue=row.queue,
        state=row.state,
        attempt=row.attempt,
        worker=row.worker or None,
        enqueued_at_ms=row.enqueued_at_ms,
        started_at_ms=row.started_at_ms or None,
        finished_at_ms=row.finished_at_ms,
    )


def _key(cursor: str) -> Key:
    found = _PLACE_CURSOR.fullmatch(cursor)
    if found is None:
        raise _bad_cursor(cursor)
    return int(found[1]), int(found[2])


def _row_number(cursor: str) -> int:
    found = _HISTORY_CURSOR.fullmatch(cursor)
    if found is None:
        raise _bad_cursor(cursor)
    return int(found[1])


def _bad_cursor(cursor: str) -> InvalidInputError:
    return InvalidInputError(f"{cursor[:40]!a} is not a cursor of this list: take it from the page before")
