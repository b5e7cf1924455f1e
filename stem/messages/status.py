"""What is known of a task: its state, its timeline, its result or error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from stem.errors import DecodeError
from stem.messages.codec import VERSION, Fields, pack, unpack

MESSAGE_LIMIT: Final = 2_000
TRACEBACK_LIMIT: Final = 16_000


class TaskState(StrEnum):
    """Where a task is. The last four are final: never overwritten, except by an operator's replay."""

    QUEUED = "queued"
    SCHEDULED = "scheduled"
    RUNNING = "running"
    RETRYING = "retrying"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    REVOKED = "revoked"
    EXPIRED = "expired"

    @property
    def final(self) -> bool:
        return self in FINAL_STATES


FINAL_STATES: Final = frozenset({TaskState.SUCCEEDED, TaskState.FAILED, TaskState.REVOKED, TaskState.EXPIRED})


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorInfo:
    """An exception as data. `type` is a name to show, never one to import.

    Attributes:
        message: at most 2 000 characters.
        traceback: at most 16 000 characters, the end of it where it was longer.
        max_retries: how many retries the task was allowed when it failed so; None where nobody said.
    """

    type: str
    message: str
    traceback: str = ""
    max_retries: int | None = None

    def encode(self) -> bytes:
        plain: dict[str, Any] = {
            "type": self.type[:200],
            "message": self.message[:MESSAGE_LIMIT],
            "tb": self.traceback[-TRACEBACK_LIMIT:],
        }
        if self.max_retries is not None:
            plain["of"] = self.max_retries
        return pack(plain)

    @classmethod
    def decode(cls, data: bytes) -> ErrorInfo:
        fields = Fields(unpack(data, what="error"), "error")
        return cls(
            type=fields.text("type"),
            message=fields.text("message"),
            traceback=fields.text("tb", ""),
            max_retries=fields.optional_integer("of"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TimelineEntry:
    """One step in a task's life; `at_ms` is the broker's clock."""

    at_ms: int
    event: str
    worker: str = ""
    attempt: int = 0
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskStatus:
    """A view of one task's record. Times are Unix milliseconds by the broker's clock, None for "not yet".

    Attributes:
        attempt: how many times it failed so far.
        crashes: how often a worker was lost under it.
        token: grows by one with each start.
        reason: why it is dead (``failed rejected poison unregistered signature-invalid malformed``), or revoked (an
            operator's words), or expired.
    """

    id: str
    task: str
    queue: str
    state: TaskState
    priority: int = 0
    attempt: int = 0
    crashes: int = 0
    token: int = 0
    worker: str | None = None
    enqueued_at_ms: int | None = None
    due_at_ms: int | None = None
    started_at_ms: int | None = None
    finished_at_ms: int | None = None
    expires_at_ms: int | None = None
    result: Any = None
    error: ErrorInfo | None = None
    reason: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)
    progress: Any = None
    timeline: tuple[TimelineEntry, ...] = ()

    @property
    def succeeded(self) -> bool:
        return self.state is TaskState.SUCCEEDED

    def to_plain(self) -> dict[str, Any]:
        """Return it as nested plain values, for JSON and for storing."""
        plain: dict[str, Any] = {
            name: getattr(self, name)
            for name in (
                "id",
                "task",
                "queue",
                "priority",
                "attempt",
                "crashes",
                "token",
                "worker",
                "enqueued_at_ms",
                "due_at_ms",
                "started_at_ms",
                "finished_at_ms",
                "expires_at_ms",
                "result",
                "reason",
                "progress",
            )
        }
        plain["state"] = self.state.value
        plain["meta"] = dict(self.meta)
        plain["error"] = (
            None
            if self.error is None
            else {
                "type": self.error.type,
                "message": self.error.message,
                "traceback": self.error.traceback,
                "max_retries": self.error.max_retries,
            }
        )
        plain["timeline"] = [
            {"at_ms": e.at_ms, "event": e.event, "worker": e.worker, "attempt": e.attempt, "detail": e.detail}
            for e in self.timeline
        ]
        return plain

    def encode(self) -> bytes:
        return pack({"v": VERSION, **self.to_plain()}, what=f"the status of task {self.id}", limit=4 * 1024 * 1024)

    @classmethod
    def decode(cls, data: bytes) -> TaskStatus:
        fields = Fields.of(data, "status", limit=4 * 1024 * 1024)
        try:
            state = TaskState(fields.text("state"))
        except ValueError as error:
            raise DecodeError("status: 'state' is not a task state") from error
        failure = fields.any("error")
        error_fields = None if failure is None else Fields(failure, "status: error")
        return cls(
            id=fields.text("id"),
            task=fields.text("task"),
            queue=fields.text("queue"),
            state=state,
            priority=fields.integer("priority", 0),
            attempt=fields.integer("attempt", 0),
            crashes=fields.integer("crashes", 0),
            token=fields.integer("token", 0),
            worker=fields.optional_text("worker"),
            enqueued_at_ms=fields.optional_integer("enqueued_at_ms"),
            due_at_ms=fields.optional_integer("due_at_ms"),
            started_at_ms=fields.optional_integer("started_at_ms"),
            finished_at_ms=fields.optional_integer("finished_at_ms"),
            expires_at_ms=fields.optional_integer("expires_at_ms"),
            result=fields.any("result"),
            error=None
            if error_fields is None
            else ErrorInfo(
                type=error_fields.text("type"),
                message=error_fields.text("message"),
                traceback=error_fields.text("traceback", ""),
                max_retries=error_fields.optional_integer("max_retries"),
            ),
            reason=fields.text("reason", ""),
            meta=fields.mapping("meta"),
            progress=fields.any("progress"),
            timeline=tuple(
                TimelineEntry(
                    at_ms=entry.integer("at_ms"),
                    event=entry.text("event"),
                    worker=entry.text("worker", ""),
                    attempt=entry.integer("attempt", 0),
                    detail=entry.text("detail", ""),
                )
                for entry in fields.maps("timeline")
            ),
        )
