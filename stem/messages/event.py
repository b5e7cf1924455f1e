"""Events: what happened to tasks and workers, for whoever is watching."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import field
from typing import Any, Final

from stem.messages.codec import VERSION, Fields, pack
from stem.record import record

KINDS: Final = (
    "task.received",
    "task.started",
    "task.succeeded",
    "task.failed",
    "task.retried",
    "task.revoked",
    "task.expired",
    "task.progress",
    "task.handed_back",
    "worker.ready",
    "worker.stopping",
    "worker.stopped",
    "worker.lost",
    "events.sampled",
)


@record
class Event:
    """One thing that happened.

    Attributes:
        kind: one of `KINDS`; an unknown one is shown as it is and otherwise ignored.
        at_ms: the broker's clock, estimated by the worker from its last beat.
        seq: grows by one per event of one worker, so that a gap can be counted.
        detail: small plain values: `duration_ms error message next_at_ms progress how`; of `events.sampled`, `skipped`:
            how many were not told, `routine`: how many of these were of tasks that go well.
    """

    kind: str
    at_ms: int
    worker: str
    seq: int
    task_id: str = ""
    task: str = ""
    queue: str = ""
    attempt: int = 0
    detail: Mapping[str, Any] = field(default_factory=dict)

    def to_plain(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "at_ms": self.at_ms,
            "worker": self.worker,
            "seq": self.seq,
            "task_id": self.task_id,
            "task": self.task,
            "queue": self.queue,
            "attempt": self.attempt,
            "detail": dict(self.detail),
        }


def encode_events(events: Iterable[Event]) -> bytes:
    """Return one batch as bytes."""
    return pack({"v": VERSION, "events": [event.to_plain() for event in events]}, what="event batch")


def decode_events(data: bytes) -> list[Event]:
    """Read one batch.

    Raises:
        DecodeError: anything in it has a wrong type.
    """
    return [_event(row) for row in Fields.of(data, "event batch").maps("events")]


def _event(row: Fields) -> Event:
    plain = row.plain
    kind, at_ms, worker, seq = plain.get("kind"), plain.get("at_ms"), plain.get("worker"), plain.get("seq")
    task_id, task, queue = plain.get("task_id"), plain.get("task"), plain.get("queue")
    attempt, detail = plain.get("attempt"), plain.get("detail")
    # What a worker writes; at thousands a second it matters that this is one look at each field.
    if (
        kind.__class__ is worker.__class__ is task_id.__class__ is task.__class__ is queue.__class__ is str
        and at_ms.__class__ is seq.__class__ is attempt.__class__ is int
        and detail.__class__ is dict
    ):
        return Event(
            kind=kind, at_ms=at_ms, worker=worker, seq=seq, task_id=task_id, task=task, queue=queue,
            attempt=attempt, detail=detail,
        )  # fmt: skip
    return Event(
        kind=row.text("kind"),
        at_ms=row.integer("at_ms"),
        worker=row.text("worker"),
        seq=row.integer("seq"),
        task_id=row.text("task_id", ""),
        task=row.text("task", ""),
        queue=row.text("queue", ""),
        attempt=row.integer("attempt", 0),
        detail=row.mapping("detail"),
    )
