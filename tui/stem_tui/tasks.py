"""Lists of tasks: which ones, and the columns that matter in each state. Pure, knows no widget."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import Final

from stem.observe.rows import QueueLine, TaskLine
from stem.observe.state import FINAL, ClusterState
from stem_tui import figures
from stem_tui.columns import Column, Ordered, View
from stem_tui.recent import Recent
from stem_tui.select import NONE, number
from stem_tui.theme import TASK, UNKNOWN, Cell, Sign


def task_sign(row: TaskLine) -> Sign:
    return TASK.get(row.state, UNKNOWN)


def short_id(row: TaskLine) -> str:
    """Return the end of an id: UUIDs of one moment share their beginning."""
    return row.id if len(row.id) <= 8 else row.id[-8:]


def _took_ms(row: TaskLine, now_ms: int) -> int | None:
    if not row.started_ms:
        return None
    if row.state == "running":
        return max(0, now_ms - row.started_ms)
    return max(0, row.finished_ms - row.started_ms) if row.finished_ms else None


def _took(row: TaskLine, now_ms: int) -> Cell:
    took = _took_ms(row, now_ms)
    if took is None:
        return NONE
    # Of what runs, whole seconds: tenths would repaint the line ten times a second and tell nobody anything.
    return Cell(figures.age(row.started_ms, now_ms) if row.state == "running" else figures.span(took))


def _due_ms(row: TaskLine) -> int | None:
    return row.due_ms or None if row.state in ("scheduled", "retrying") else None


def _due(row: TaskLine, now_ms: int) -> Cell:
    due_ms = _due_ms(row)
    if due_ms is None:
        return NONE
    left = due_ms - now_ms
    return Cell("now" if left <= 0 else f"in {figures.ago((left + 999) // 1000 * 1000)}", "warn")


def _left(row: TaskLine, now_ms: int) -> Cell:
    """Return what is left of its time limit."""
    if row.state != "running" or not row.limit_ms or not row.started_ms:
        return NONE
    left = row.started_ms + row.limit_ms - now_ms
    return Cell("over" if left <= 0 else figures.ago(left), "bad" if left < row.limit_ms // 10 else "dim")


def _ends_ms(row: TaskLine) -> int | None:
    """Return when its time limit is over; None where none is counted down."""
    counted = row.state == "running" and row.limit_ms and row.started_ms
    return row.started_ms + row.limit_ms if counted else None


def _try(row: TaskLine, _: int) -> Cell:
    """Return which try runs, comes next, or was the last: the second one is worth a colour."""
    number = row.attempt + 1
    shown = f"{number}/{row.max_retries + 1}" if row.max_retries is not None else str(number)
    return Cell(shown, "warn" if row.attempt else "faint")


def _waited_ms(row: TaskLine) -> int | None:
    if not row.enqueued_ms or row.started_ms < row.enqueued_ms:
        return None
    return row.started_ms - row.enqueued_ms


def _waited(row: TaskLine, _: int) -> Cell:
    waited = _waited_ms(row)
    return NONE if waited is None else Cell(figures.span(waited), "dim")


def _ran_ms(row: TaskLine) -> int | None:
    """Return how long it ran, of one that has ended."""
    return None if row.state == "running" else _took_ms(row, 0)


def _runs(row: TaskLine) -> int | None:
    """Return what puts those that run in the order of how long they do, whatever time it is."""
    return -row.started_ms or None


def _natural(text: str) -> tuple[str | int, ...] | None:
    """Return what puts text in order, with its numbers by their value; None for no text."""
    parts = re.split(r"([0-9]+)", text) if text else []
    return tuple(int(part[:30]) if at % 2 else part for at, part in enumerate(parts)) or None


def _clock(at_ms: int, now_ms: int) -> Cell:
    """Return a time of day; of another day its date."""
    if not at_ms:
        return NONE
    return Cell(figures.clock(at_ms) if abs(now_ms - at_ms) < 43_200_000 else figures.date(at_ms)[5:16], "dim")


def _what(row: TaskLine, _: int) -> Cell:
    if row.error or row.message:
        joined = ": ".join(part for part in (row.error, row.message) if part)
        return Cell(joined, "bad" if row.state in ("failed", "dead") else "warn")
    return Cell(row.progress, "dim")


_ID: Final[Column[TaskLine]] = Column(key="id", title="ID", width=8, cell=lambda r, _: Cell(short_id(r), "dim"),
                              sort=short_id)  # fmt: skip
_TASK: Final[Column[TaskLine]] = Column(key="task", title="TASK", width=14, grow=2, sort=lambda r: r.task,
                                        cell=lambda r, _: Cell(r.task, "strong"))  # fmt: skip
_STATE: Final[Column[TaskLine]] = Column(key="state", title="STATE", width=11, cell=lambda r, _: task_sign(r).cell,
                                 sort=lambda r: task_sign(r).word)  # fmt: skip
_QUEUE: Final[Column[TaskLine]] = Column(key="queue", title="QUEUE", width=8, grow=1, keep=3,
                                 cell=lambda r, _: Cell(r.queue, "dim"), sort=lambda r: r.queue)  # fmt: skip
_WORKER: Final[Column[TaskLine]] = Column(key="worker", title="WORKER", width=11, grow=2, keep=2,
                                  cell=lambda r, _: Cell(r.worker or "–", "dim"),
                                  sort=lambda r: r.worker or None)  # fmt: skip
_TRY: Final[Column[TaskLine]] = Column(key="tries", title="TRY", width=4, align="right", keep=4, cell=_try,
                                       sort=lambda r: r.attempt, down=True)  # fmt: skip
_TRIES: Final = replace(_TRY, title="TRIES", width=5)
_LEFT: Final[Column[TaskLine]] = Column(key="left", title="LEFT", width=6, align="right", keep=5, cell=_left,
                                        sort=_ends_ms)  # fmt: skip
_STARTED: Final[Column[TaskLine]] = Column(key="started", title="STARTED", width=11, align="right", keep=7,
                                           cell=lambda r, now: _clock(r.started_ms, now),
                                           sort=lambda r: r.started_ms or None)  # fmt: skip
_WAITED: Final[Column[TaskLine]] = Column(key="waited", title="WAITED", width=6, align="right", keep=6, cell=_waited,
                                          sort=_waited_ms, down=True)  # fmt: skip
_ETA: Final[Column[TaskLine]] = Column(key="eta", title="AT", width=11, align="right", keep=6,
                                       cell=lambda r, now: _clock(r.due_ms, now),
                                       sort=lambda r: r.due_ms or None)  # fmt: skip
_AT: Final[Column[TaskLine]] = Column(key="at", title="AT", width=11, align="right", keep=7,
                                      cell=lambda r, now: _clock(r.when_ms, now),
                                      sort=lambda r: r.when_ms or None, down=True)  # fmt: skip
_TOOK: Final[Column[TaskLine]] = Column(key="took", title="TOOK", width=6, align="right", cell=_took,
                                sort=_ran_ms, down=True)  # fmt: skip
_WHAT: Final[Column[TaskLine]] = Column(key="what", title="ERROR / PROGRESS", width=16, grow=4, keep=1, cell=_what,
                                sort=lambda r: _what(r, 0).text or None)  # fmt: skip
_ERROR: Final = replace(_WHAT, title="ERROR")
_PROGRESS: Final = replace(_WHAT, title="PROGRESS", width=10, grow=1, sort=lambda r: _natural(_what(r, 0).text))
_WHY: Final = replace(_WHAT, title="REASON")
_AGE: Final = replace(_TOOK, title="RUNS", sort=_runs)
_DUE: Final[Column[TaskLine]] = Column(key="due", title="NEXT", width=9, align="right", cell=_due,
                               sort=_due_ms)  # fmt: skip
_ENQUEUED: Final[Column[TaskLine]] = Column(key="age", title="AGE", width=6, align="right",
                                    cell=lambda r, now: Cell(figures.age(r.enqueued_ms, now), "dim"),
                                    sort=lambda r: -r.enqueued_ms or None, down=True)  # fmt: skip
_WHEN: Final[Column[TaskLine]] = Column(key="when", title="AGO", width=6, align="right",
                                cell=lambda r, now: Cell(figures.age(r.when_ms, now), "dim"),
                                sort=lambda r: -r.when_ms or None)  # fmt: skip
_DIED: Final = replace(_WHEN, title="DIED")
_PRIORITY: Final[Column[TaskLine]] = Column(key="prio", title="PRIO", width=4, align="right", keep=5,
                                    cell=lambda r, _: number(r.priority), sort=lambda r: r.priority,
                                    down=True)  # fmt: skip

_TASK_FIELDS: Final = {
    "name": lambda r, _: r.task,
    "id": lambda r, _: r.id.casefold(),
    "state": lambda r, _: r.state,
    "queue": lambda r, _: r.queue,
    "worker": lambda r, _: r.worker,
    "error": lambda r, _: f"{r.error}: {r.message}",
    "age": lambda r, now: (now - (r.enqueued_ms or r.started_ms or r.changed_ms)) / 1000,
    "took": lambda r, now: None if (took := _took_ms(r, now)) is None else took / 1000,
    "tries": lambda r, _: float(r.attempt + 1),  # as the columns count them
}


def _task_view(title: str, *columns: Column[TaskLine], order: Column[TaskLine] | None = None) -> View[TaskLine]:
    return View(
        kind="task",
        title=title,
        key=attrgetter("key"),
        columns=columns,
        fields=_TASK_FIELDS,
        order=None if order is None else order.sort,
        order_down=order is not None and order.down,
        follows=order is None,
    )


# Columns by state: what matters of a task depends on where it is.
RUNNING: Final = _task_view("RUNNING", _TASK, _ID, _WORKER, _QUEUE, _TRY, _PROGRESS, _STARTED, _AGE, _LEFT, order=_AGE)
RUNNING_HERE: Final = _task_view("RUNNING HERE", _TASK, _ID, _QUEUE, _TRY, _PROGRESS, _STARTED, _AGE, _LEFT, order=_AGE)
LONGEST: Final = _task_view("LONGEST RUNNING", _TASK, _ID, _WORKER, _QUEUE, _AGE, _LEFT, order=_AGE)
_BY_STATE: Final[dict[str, View[TaskLine]]] = {
    "running": RUNNING,
    "queued": _task_view("QUEUED", _TASK, _ID, _QUEUE, _PRIORITY, _TRY, _ERROR, _ENQUEUED, order=_ENQUEUED),
    "scheduled": _task_view("SCHEDULED", _TASK, _ID, _QUEUE, _PRIORITY, _ENQUEUED, _ETA, _DUE, order=_DUE),
    "retrying": _task_view("RETRYING", _TASK, _ID, _QUEUE, _TRY, _ERROR, _ETA, _DUE, order=_DUE),
    "held": _task_view("HELD", _TASK, _ID, _QUEUE, _PRIORITY, _TRY, _ENQUEUED, order=_ENQUEUED),
    "dead": _task_view("DEAD", _TASK, _ID, _QUEUE, _TRIES, _ERROR, _AT, _DIED, order=_DIED),
    "succeeded": _task_view("SUCCEEDED", _TASK, _ID, _WORKER, _QUEUE, _TRIES, _WAITED, _TOOK, _AT, _WHEN),
    "failed": _task_view("FAILED", _TASK, _ID, _WORKER, _QUEUE, _TRIES, _ERROR, _TOOK, _AT, _WHEN),
    "revoked": _task_view("REVOKED", _TASK, _ID, _QUEUE, _WHY, _WAITED, _AT, _WHEN),
    "expired": _task_view("EXPIRED", _TASK, _ID, _QUEUE, _WAITED, _AT, _WHEN),
}
TABS: Final[dict[str, View[TaskLine]]] = {
    "all": _task_view("ALL", _STATE, _TASK, _ID, _WORKER, _QUEUE, _TRY, _WHAT, _WHEN),
    **_BY_STATE,
}
"""By the tab's name: the states, and all of them."""
# In the list of one queue nobody needs its name.
OF_QUEUE: Final = {
    name: replace(view, columns=[column for column in view.columns if column.key != "queue"])
    for name, view in _BY_STATE.items()
}


def task_rows(state: ClusterState, tab: str, recent: Recent | None = None) -> list[TaskLine]:
    """Return the tasks of a tab of the Tasks screen; those of `all` and of final states come newest first.

    Args:
        recent: what keeps that order from one look to the next.
    """
    if tab == "running":
        return list(state.running.values())
    if tab == "all" or tab in FINAL:
        states = {"failed", "dead"} if tab == "failed" else {tab}
        rows = (recent or Recent(state)).rows()
        return rows if tab == "all" else [row for row in rows if row.state in states]
    return [row for row in state.open.values() if row.state == tab]


def longest(state: ClusterState, lines: int) -> Sequence[TaskLine]:
    """Return what runs, longest first; there are so many lines to show it on."""
    return Ordered(state.longest.first(lines), list(state.running.values()), attrgetter("started_ms", "key"))


def tab_count(state: ClusterState, tab: str, queue: str | None = None) -> int | None:
    """Return how many there are as the broker counts them, in all queues or one; None where it does not count."""
    count = _COUNTED.get(tab)
    if count is None:
        return None
    return sum(count(row) for row in state.queues.values() if queue in (None, row.key))


_COUNTED: Final[dict[str, Callable[[QueueLine], int]]] = {
    "running": lambda row: row.in_flight,
    "queued": lambda row: row.ready,
    "scheduled": lambda row: row.delayed,
    "retrying": lambda row: row.retrying,
    "held": lambda row: row.held,
    "dead": lambda row: row.dead,
}
