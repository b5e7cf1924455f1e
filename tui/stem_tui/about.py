"""What an event is about, and so what it opens, what can be done with it and which command shows it. Pure."""

from __future__ import annotations

from stem.observe.rows import EventLine, QueueLine, TaskLine, WorkerLine
from stem.observe.state import ClusterState
from stem.text import clean


def worker_of(state: ClusterState, name: str) -> WorkerLine | None:
    """Return a worker by its id or name; of several of one name the one that lives, and came last."""
    if name in state.workers:
        return state.workers[name]
    named = [row for row in state.workers.values() if row.name == name]
    return min(named, key=lambda row: (row.diagnosis in ("lost", "stopped"), -row.started_ms), default=None)


def queue_of(state: ClusterState, name: str) -> QueueLine | None:
    """Return a queue by the name that it has or is shown by."""
    return next((row for row in state.queues.values() if name in (row.key, row.name)), None)


def named(row: EventLine) -> tuple[str, str]:
    """Return kind and name of what an event is about, as commands take them; empty where it is about nothing single."""
    if row.task_id:
        return "task", row.task_id
    if row.worker:
        return "worker", row.owner or row.worker
    return ("queue", row.queue) if row.queue else ("", "")


def subject(row: EventLine, state: ClusterState) -> tuple[str, TaskLine | WorkerLine | QueueLine] | str:
    """Return what an event is about, as kind and row; in words why that cannot be had.

    A worker that told of itself is meant by its id: another one of its name is not it.
    """
    kind, name = named(row)
    found: TaskLine | WorkerLine | QueueLine | None = None
    match kind:
        case "task":
            found = state.tasks.get(name) or TaskLine(name, name, row.task, row.queue)
        case "worker":
            by_id = clean(name) != row.worker
            found = state.workers.get(name) if by_id else worker_of(state, name)
        case "queue":
            found = queue_of(state, name)
        case _:
            return f"{row.kind} is about no single task, queue or worker"
    return (kind, found) if found is not None else f"{kind} {row.worker or row.queue} is not known (any more)"
