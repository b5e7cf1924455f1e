"""Asks the broker and the workers for what a detail shows: one task, a page of a queue, a stack. No widget here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from stem.contracts import Broker, ListState
from stem.control.answer import Answers
from stem.control.asking import Asker
from stem.control.lookup import look_up
from stem.control.why import why
from stem.errors import BrokerRefusedError, StemError
from stem.messages.status import TaskStatus
from stem.observe.rows import TaskLine
from stem.observe.state import ClusterState
from stem.record import record
from stem.text import clean
from stem_tui.audit import AuditLine, line_of
from stem_tui.taskdetail import TaskAnswer

PAGE: Final = 100
AUDIT_ROWS: Final = 500


@record
class PageAnswer:
    """Some tasks of one queue in one state; queue, state and cursor are those it was asked for.

    Attributes:
        next: the cursor of the page after it, None on the last one.
        problem: why there are no rows; clean.
    """

    queue: str
    state: ListState
    cursor: str | None
    rows: Sequence[TaskLine] = ()
    next: str | None = None
    problem: str = ""


class Reader:
    """Answers questions of the screens; never raises for what the broker says. Belongs to one event loop.

    Args:
        asker: one that does not wait long for workers that do not answer.
    """

    def __init__(self, broker: Broker, asker: Asker, state: ClusterState) -> None:
        self._broker = broker
        self._asker = asker
        self._state = state

    async def task(self, task_id: str, before: TaskAnswer | None) -> TaskAnswer:
        """Return all that is known of a task; the answer before stands where the broker gives none."""
        if before is not None and before.id != task_id:
            before = None
        problem, explanation = "", None
        try:
            status, request = await look_up(self._broker, task_id)
        except StemError as error:
            return before if before is not None else TaskAnswer(id=task_id, problem=clean(error, 300))
        if status is not None and not status.state.final:
            try:
                explanation = await why(self._broker, self._asker, task_id)
            except BrokerRefusedError as error:  # to ask workers takes a right that a viewer does not have
                problem = clean(error, 300)
            except StemError as error:
                problem = clean(error, 300)
                if before is not None:
                    return before
        envelope = before.envelope if before is not None else None
        if request is not None and (envelope := request.envelope) is None:
            unread = f"its body cannot be read: {clean(request.problem, 200)}"
            problem = f"{unread}; {problem}" if problem else unread
        return TaskAnswer(
            id=task_id,
            status=status,
            envelope=envelope,
            explanation=explanation,
            problem=problem,
            body_bytes=None if request is None else request.size_bytes,
            signed=request is not None and request.signed,
        )

    async def page(self, queue: str, state: ListState, cursor: str | None) -> PageAnswer:
        """Return a page of the tasks of a queue."""
        try:
            found = await self._broker.census.tasks(state, queue=queue, cursor=cursor, limit=PAGE)
        except StemError as error:
            return PageAnswer(queue=queue, state=state, cursor=cursor, problem=clean(error, 300))
        rows = [self._line(status, state) for status in found.items]
        return PageAnswer(queue=queue, state=state, cursor=cursor, rows=rows, next=found.next)

    def _line(self, status: TaskStatus, state: ListState) -> TaskLine:
        row = TaskLine(status.id, clean(status.id, 64))
        row.status(status, state)
        row.owner, row.worker = self._state.owner(status.worker or "")
        beaten = self._state.running.get(status.id)
        if beaten is not None and beaten.token == row.token and state == "running":
            # Its worker knows more than its record: how far it is, and how long it may run.
            row.limit_ms, row.progress = beaten.limit_ms, beaten.progress or row.progress
        return row

    async def audit(self) -> tuple[Sequence[AuditLine], int] | str:
        """Return the newest rows of the audit and how many there are in all, or why there are none."""
        try:
            page = await self._broker.census.audit(limit=AUDIT_ROWS)
        except StemError as error:
            return clean(error, 300)
        rows = [line_of(row) for row in page.items]
        return rows, page.total or len(rows)

    async def stack(self, worker: str) -> Answers | str:
        """Return the stacks of a worker, or why there are none."""
        try:
            return await self._asker.inspect("stack", [worker])
        except StemError as error:
            return clean(error, 300)

    async def stats(self, worker: str) -> Answers | str:
        """Return what a worker says of its pools and children, or why it says nothing."""
        try:
            return await self._asker.stats([worker])
        except StemError as error:
            return clean(error, 300)
