"""Lists of tasks: which ones, and the columns that matter in each state. Pure, knows no widget."""

from __future__ import annotations

from typing import Final

from stem.observe.rows import TaskLine
from stem.observe.state import FINAL, ClusterState
from stem_tui import figures
from stem_tui.columns import Column, View
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


def _due(row: TaskLine, now_ms: int) -> Cell:
    if not row.due_ms or row.state not in ("scheduled", "retrying"):
        return NONE
    left = row.due_ms - now_ms
    return Cell("now" if left <= 0 else f"in {figures.span((left + 999) // 1000 * 1000)}", "warn")


def _what(row: TaskLine, _: int) -> Cell:
    if row.error or row.message:
        joined = ": ".join(part for part in (row.error, row.message) if part)
        return Cell(joined, "bad" if row.state in ("failed", "dead") else "warn")
    return Cell(row.progress, "dim")


_ID: Final[Column[TaskLine]] = Column(key="id", title="ID", width=8, cell=lambda r, _: Cell(short_id(r), "dim"),
                              sort=lambda r: r.id)  # fmt: skip
_TASK: Final[Column[TaskLine]] = Column(key="task", title="TASK", width=14, grow=2, sort=lambda r: r.task,
                                        cell=lambda r, _: Cell(r.task, "strong"))  # fmt: skip
_STATE: Final[Column[TaskLine]] = Column(key="state", title="STATE", width=11, cell=lambda r, _: task_sign(r).cell,
                                 sort=lambda r: r.state)  # fmt: skip
_QUEUE: Final[Column[TaskLine]] = Column(key="queue", title="QUEUE", width=8, grow=1, keep=3,
                                 cell=lambda r, _: Cell(r.queue, "dim"), sort=lambda r: r.queue)  # fmt: skip
_WORKER: Final[Column[TaskLine]] = Column(key="worker", title="WORKER", width=11, grow=2, keep=2,
                                  cell=lambda r, _: Cell(r.worker or "–", "dim"), sort=lambda r: r.worker)  # fmt: skip
_TRY: Final[Column[TaskLine]] = Column(key="tries", title="TRY", width=3, align="right", keep=4,
                               cell=lambda r, _: number(r.attempt, "warn"), sort=lambda r: r.attempt,
                               down=True)  # fmt: skip
_TOOK: Final[Column[TaskLine]] = Column(key="took", title="TOOK", width=6, align="right", cell=_took,
                                sort=lambda r: r.started_ms)  # fmt: skip
_WHAT: Final[Column[TaskLine]] = Column(key="what", title="ERROR / PROGRESS", width=16, grow=4, keep=1, cell=_what,
                                sort=lambda r: r.error)  # fmt: skip
_DUE: Final[Column[TaskLine]] = Column(key="due", title="NEXT", width=9, align="right", cell=_due,
                               sort=lambda r: r.due_ms)  # fmt: skip
_ENQUEUED: Final[Column[TaskLine]] = Column(key="age", title="AGE", width=6, align="right",
                                    cell=lambda r, now: Cell(figures.age(r.enqueued_ms, now), "dim"),
                                    sort=lambda r: r.enqueued_ms)  # fmt: skip
_WHEN: Final[Column[TaskLine]] = Column(key="when", title="WHEN", width=6, align="right",
                                cell=lambda r, now: Cell(figures.age(r.when_ms, now), "dim"),
                                sort=lambda r: r.when_ms, down=True)  # fmt: skip
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
    "tries": lambda r, _: float(r.attempt),
}


def _task_view(title: str, *columns: Column[TaskLine], order: Column[TaskLine] | None = None) -> View[TaskLine]:
    return View(
        kind="task",
        title=title,
        key=lambda row: row.key,
        columns=columns,
        fields=_TASK_FIELDS,
        order=None if order is None else order.sort,
        order_down=order is not None and order.down,
    )


# Columns by state: what matters of a task depends on where it is.
RUNNING: Final = _task_view("RUNNING", _TASK, _ID, _WORKER, _QUEUE, _TRY, _WHAT, _TOOK, order=_TOOK)
RUNNING_HERE: Final = _task_view("RUNNING HERE", _TASK, _ID, _QUEUE, _TRY, _WHAT, _TOOK, order=_TOOK)
LONGEST: Final = _task_view("LONGEST RUNNING", _TASK, _ID, _WORKER, _QUEUE, _TOOK, order=_TOOK)
TABS: Final[dict[str, View[TaskLine]]] = {
    "all": _task_view("ALL", _STATE, _TASK, _ID, _WORKER, _QUEUE, _TRY, _WHAT, _WHEN),
    "running": RUNNING,
    "queued": _task_view("QUEUED", _TASK, _ID, _QUEUE, _PRIORITY, _TRY, _WHAT, _ENQUEUED, order=_ENQUEUED),
    "scheduled": _task_view("SCHEDULED", _TASK, _ID, _QUEUE, _PRIORITY, _DUE, _ENQUEUED, order=_DUE),
    "retrying": _task_view("RETRYING", _TASK, _ID, _QUEUE, _TRY, _WHAT, _DUE, order=_DUE),
    "dead": _task_view("DEAD", _TASK, _ID, _QUEUE, _TRY, _WHAT, _WHEN, order=_WHEN),
    "done": _task_view("DONE", _STATE, _TASK, _ID, _WORKER, _QUEUE, _TRY, _WHAT, _TOOK, _WHEN),
}


def task_rows(state: ClusterState, tab: str, recent: Recent | None = None) -> list[TaskLine]:
    """Return the tasks of a tab of the Tasks screen; those of `all` and `done` come in order, newest first.

    Args:
        recent: what keeps that order from one look to the next.
    """
    if tab == "running":
        return list(state.running.values())
    if tab in ("all", "done"):
        rows = (recent or Recent(state)).rows()
        return rows if tab == "all" else [row for row in rows if row.state in FINAL]
    return [row for row in state.open.values() if row.state == tab]


def tab_count(state: ClusterState, tab: str) -> int | None:
    """Return how many there are as the broker counts them; None where it does not count."""
    rows = state.queues.values()
    match tab:
        case "running":
            return sum(row.in_flight for row in rows)
        case "queued":
            return sum(row.ready for row in rows)
        case "scheduled":
            return sum(row.delayed for row in rows)
        case "retrying":
            return sum(row.retrying for row in rows)
        case "dead":
            return sum(row.dead for row in rows)
    return None
