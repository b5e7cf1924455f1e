"""What happened before anybody looked: fills a new picture out of its first snapshot. Pure.

Counters of whole minutes become the rates of the last ones; final rows, dead letters and heartbeats become the tail and
the groups of failures. So a dashboard that is opened at three shows what happened at two.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from stem.contracts import MinuteRow, Seen
from stem.messages.status import TaskState, TaskStatus
from stem.observe.rows import MESSAGE_CHARS, EventLine, pause_text, took_text
from stem.text import clean

if TYPE_CHECKING:  # the state calls these, with itself
    from stem.observe.snapshot import Snapshot
    from stem.observe.state import ClusterState

TOLD: Final = 500
"""Lines of the tail made of final rows: so many of all, and so many of those that did not succeed."""
_MINUTES: Final = 3


def seed_rates(state: ClusterState, snapshot: Snapshot, as_of_ms: int, at_s: float) -> None:
    """Give the meters readings of the minutes before the first one, so that there is a rate at once."""
    rows = snapshot.minutes
    if not rows:
        return
    for name, meter in state.went.items():
        meter.seed(_readings(rows, (name,), 0, as_of_ms, at_s))
    total = 0
    for queue in snapshot.queues or ():
        total += queue.enqueued_total
        mine = [row for row in rows if row.queue == queue.name]
        line = state.queue_line(queue.name)
        line.came.seed(_readings(mine, ("enqueued",), queue.enqueued_total, as_of_ms, at_s))
        line.went.seed(_readings(mine, ("succeeded", "failed"), 0, as_of_ms, at_s))
    state.came.seed(_readings(rows, ("enqueued",), total, as_of_ms, at_s))


def _readings(
    rows: Sequence[MinuteRow], names: Sequence[str], total: int, as_of_ms: int, at_s: float
) -> list[tuple[float, float]]:
    """Return what a total that is `total` at `at_s` was at the starts of the last minutes, oldest first."""
    counts = [0] * _MINUTES
    start_ms = as_of_ms // 60_000 * 60_000
    for row in rows:
        back = (start_ms - row.at_ms) // 60_000
        if 0 <= back < _MINUTES:
            counts[back] += sum(row.counts.get(name, 0) for name in names)
    readings, left = [], float(total)
    for back, count in enumerate(counts):
        left -= count
        readings.append((at_s - (as_of_ms - start_ms) / 1000 - 60.0 * back, left))
    # A minute that has only begun makes no rate: what came in it counts to the one before.
    if as_of_ms - start_ms < 5_000:
        del readings[0]
    return readings[::-1]


def tell(state: ClusterState, snapshot: Snapshot, as_of_ms: int) -> None:
    """Fill the tail and the groups of failures with what is on record."""
    for page in (snapshot.pages.get("dead"), snapshot.pages.get("retrying")):
        for status in page.items if page is not None else ():
            _failure(state, status)
    lines = [*_final_lines(state, snapshot), *_worker_lines(state, snapshot.workers or (), as_of_ms)]
    for pause in snapshot.pauses or ():
        if pause.at_ms:
            target = clean(pause.target)
            lines.append(EventLine(key=f"pause-{pause.kind}-{target}", at_ms=pause.at_ms, kind=f"{pause.kind}.paused",
                                   queue=target if pause.kind == "queue" else "",
                                   task=target if pause.kind == "task" else "",
                                   worker=state.owner(pause.target)[1] if pause.kind == "worker" else "",
                                   text=pause_text(pause)))  # fmt: skip
    for line in sorted(lines, key=lambda line: line.at_ms):
        state.tell(line)


def _failure(state: ClusterState, status: TaskStatus) -> None:
    """Count the last failure of a task that waits for its next attempt or is dead, and say what it was."""
    at_ms = status.finished_at_ms or status.started_at_ms
    if status.error is None or at_ms is None:
        return
    state.failures.add(
        task=clean(status.task),
        error=clean(status.error.type),
        message=clean(status.error.message, MESSAGE_CHARS),
        task_id=clean(status.id, 64),
        # The record of what waits for its next attempt says how many there were, events name the one that failed.
        attempt=status.attempt - (status.state is TaskState.RETRYING),
        at_ms=at_ms,
        queue=clean(status.queue),
        worker=state.owner(status.worker or "")[1],
    )


def _final_lines(state: ClusterState, snapshot: Snapshot) -> list[EventLine]:
    lines, bad = [], 0
    for number, row in enumerate(snapshot.history or ()):
        failed = row.state.value != "succeeded"
        bad += failed
        if number >= TOLD and (not failed or bad > TOLD):
            continue
        parts = [clean(row.error_type)] if row.error_type else []
        if row.started_at_ms and row.finished_at_ms >= row.started_at_ms:
            parts.append(took_text(row.finished_at_ms - row.started_at_ms))
        if row.attempt:
            parts.append(f"attempt {row.attempt}")
        lines.append(
            EventLine(
                key=f"final-{number}",
                at_ms=row.finished_at_ms,
                kind=f"task.{row.state.value}",
                task=clean(row.task),
                task_id=clean(row.id, 64),
                queue=clean(row.queue),
                worker=state.owner(row.worker)[1],
                text="  ".join(parts),
                owner=state.owner(row.worker)[0],
            )
        )
    return lines


def _worker_lines(state: ClusterState, workers: Sequence[Seen], as_of_ms: int) -> list[EventLine]:
    lines = []
    for seen in workers:
        beat = seen.heartbeat
        name = clean(beat.name)
        known = [("ready", beat.started_at_ms, f"takes {', '.join(clean(queue) for queue in beat.queues[:8])}")]
        if seen.stopped:
            known.append(("stopped", seen.at_ms, ""))
        elif seen.lost:
            known.append(("lost", seen.at_ms, "its last heartbeat"))
        lines += [
            EventLine(key=f"{word}-{clean(beat.id)}", at_ms=min(at_ms, as_of_ms), kind=f"worker.{word}", worker=name,
                      text=text, owner=beat.id)
            for word, at_ms, text in known
            if at_ms
        ]  # fmt: skip
    return lines
