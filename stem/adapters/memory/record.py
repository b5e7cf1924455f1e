"""One task as the broker keeps it, and the status that is a view of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

from stem.contracts import Delivery, Expired
from stem.errors import DecodeError
from stem.messages.codec import unpack
from stem.messages.envelope import Envelope
from stem.messages.status import ErrorInfo, TaskState, TaskStatus, TimelineEntry

TIMELINE_LIMIT: Final = 200


class Place(Enum):
    """The index of its queue that a task stands in. Exactly one, or none once it is final and not dead."""

    NOWHERE = "nowhere"
    READY = "ready"
    DELAYED = "delayed"
    RETRYING = "retrying"
    HELD = "held"
    LEASED = "leased"
    DEAD = "dead"


WAITING: Final = (Place.READY, Place.RETRYING, Place.DELAYED, Place.HELD)


@dataclass(slots=True, kw_only=True)
class Record:
    """The one truth about a task. Bytes stay bytes: they are decoded when somebody looks.

    Attributes:
        seq: grows with each new record; the order of `reconcile`.
        settled_tokens: the last ones that settled it, newest first.
        owner: the worker that holds the lease now; `worker` the one that last started it, until it has to run again.
        gone_ms: when the record itself is forgotten; None while it is not final, and while it is dead.
    """

    id: str
    task: str
    queue: str
    body: bytes
    signature: bytes
    priority: int
    lease_ms: int | None
    unique_key: str | None
    seq: int
    enqueued_ms: int
    expires_ms: int | None
    state: TaskState = TaskState.QUEUED
    place: Place = Place.NOWHERE
    attempt: int = 0
    crashes: int = 0
    token: int = 0
    settled_tokens: tuple[int, ...] = ()
    owner: str = ""
    worker: str = ""
    lease_granted_ms: int = 0
    due_ms: int | None = None
    ready_ms: int = 0
    started_ms: int | None = None
    finished_ms: int | None = None
    gone_ms: int | None = None
    result: bytes = b""
    error: bytes = b""
    progress: bytes = b""
    reason: str = ""
    revoking: bool = False
    revoke_reason: str = ""
    give_backs: int = 0
    first_give_back_ms: int = 0
    timeline: list[TimelineEntry] = field(default_factory=list)

    def note(self, now: int, event: str, *, worker: str = "", detail: str = "") -> None:
        """Add a step to the timeline; in a very long life the middle is dropped, the first step stays."""
        if len(self.timeline) >= TIMELINE_LIMIT:
            del self.timeline[1]
        self.timeline.append(
            TimelineEntry(at_ms=now, event=event, worker=worker, attempt=self.attempt, detail=detail[:200])
        )

    def delivery(self) -> Delivery:
        """Return what its owner gets to run it."""
        return Delivery(
            id=self.id,
            task=self.task,
            token=self.token,
            queue=self.queue,
            body=self.body,
            signature=self.signature,
            priority=self.priority,
            attempt=self.attempt,
            crashes=self.crashes,
            lease_ms=self.lease_granted_ms,
            enqueued_at_ms=self.enqueued_ms,
            started_at_ms=self.started_ms or 0,
            give_backs=self.give_backs,
            first_give_back_ms=self.first_give_back_ms,
        )

    def expired(self) -> Expired:
        """Return what a worker is told of its end when it came too late."""
        return Expired(
            id=self.id,
            task=self.task,
            queue=self.queue,
            body=self.body,
            signature=self.signature,
            attempt=self.attempt,
        )

    def status(self, *, timeline: bool, listed: bool = False) -> TaskStatus:
        """Return the record as others see it; parts that cannot be decoded are left out, `listed` the large ones."""
        waits_for_time = self.state in (TaskState.SCHEDULED, TaskState.RETRYING)
        return TaskStatus(
            id=self.id,
            task=self.task,
            queue=self.queue,
            state=self.state,
            priority=self.priority,
            attempt=self.attempt,
            crashes=self.crashes,
            token=self.token,
            worker=self.worker or None,
            enqueued_at_ms=self.enqueued_ms,
            due_at_ms=self.due_ms if waits_for_time else None,
            started_at_ms=self.started_ms,
            finished_at_ms=self.finished_ms,
            expires_at_ms=self.expires_ms,
            result=None if listed else _unpacked(self.result),
            error=None if self.state is TaskState.SUCCEEDED else _error(self.error),  # that of a try before
            reason=self.reason,
            meta={} if listed else _meta(self.body),
            progress=_unpacked(self.progress),
            timeline=tuple(self.timeline) if timeline else (),
        )


def revoked_before(task_id: str, at_ms: int, reason: str, *, timeline: bool) -> TaskStatus:
    """Return what is shown of an id that was revoked before it came."""
    revoked = TaskState.REVOKED
    return TaskStatus(
        id=task_id,
        task="",
        queue="",
        state=revoked,
        finished_at_ms=at_ms,
        reason=reason,
        timeline=(TimelineEntry(at_ms=at_ms, event=revoked.value, detail=reason),) if timeline else (),
    )


def _unpacked(data: bytes) -> Any:
    if not data:
        return None
    try:
        return unpack(data)
    except DecodeError:
        return None


def _error(data: bytes) -> ErrorInfo | None:
    if not data:
        return None
    try:
        return ErrorInfo.decode(data)
    except DecodeError:
        return None


def _meta(body: bytes) -> dict[str, Any]:
    try:
        return dict(Envelope.decode(body).meta)
    except DecodeError:
        return {}
