"""The rows a dashboard shows: slotted, mutable, and clean. Everything that came from a message passes through
`stem.text.clean` here, on its way in; only `key` of a row is as it was sent, for naming it in a command. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from sys import intern
from typing import Any, Final

from stem.contracts import FinalRow, Pause, QueueRow, Seen
from stem.messages.event import Event
from stem.messages.heartbeat import RunningTask
from stem.messages.status import TaskStatus
from stem.observe.rates import Meter
from stem.text import clean

NAME_CHARS: Final = 200
MESSAGE_CHARS: Final = 300
GONE: Final = 1 << 62
_ENDED: Final = frozenset({"succeeded", "failed", "revoked", "expired", "dead", "retrying"})


@dataclass(slots=True)
class QueueLine:
    """One queue. Counts are the server's, of the last poll; the meters make rates of them."""

    key: str
    name: str
    ready: int = 0
    delayed: int = 0
    retrying: int = 0
    held: int = 0
    in_flight: int = 0
    dead: int = 0
    oldest_ms: int | None = None
    consumers: int = 0
    paused: bool = False
    paused_by: str = ""
    paused_reason: str = ""
    paused_at_ms: int = 0
    paused_until_ms: int | None = None
    came: Meter = field(default_factory=Meter)
    went: Meter = field(default_factory=Meter)

    def update(self, row: QueueRow) -> None:
        """Take what the broker says of it now."""
        self.ready, self.delayed, self.retrying, self.held = row.ready, row.delayed, row.retrying, row.held
        self.in_flight, self.dead, self.oldest_ms, self.consumers = (
            row.in_flight,
            row.dead,
            row.oldest_ms,
            row.consumers,
        )
        self.paused = row.pause is not None
        self.paused_by = "" if row.pause is None else clean(row.pause.actor)
        self.paused_reason = "" if row.pause is None else clean(row.pause.reason)
        self.paused_at_ms = 0 if row.pause is None else row.pause.at_ms
        self.paused_until_ms = None if row.pause is None else row.pause.until_ms


@dataclass(slots=True)
class WorkerLine:
    """One worker process, as it said of itself at `at_ms` of the broker's clock.

    Attributes:
        diagnosis: `healthy busy wedged lost draining stopped`, `late` when a beat is overdue; empty at first.
        paused_here: an operator paused this worker.
        superseded: it was lost, and another process of the same name has started since.
        whole: `running` holds all it runs, so that what is missing there runs no longer.
    """

    key: str
    name: str
    host: str = ""
    pid: int = 0
    version: str = ""
    state: str = "running"
    diagnosis: str = ""
    queues: tuple[str, ...] = ()
    paused: tuple[str, ...] = ()
    digest: str = ""
    concurrency: int = 0
    in_flight: int = 0
    counters: Mapping[str, int] = field(default_factory=dict)
    cpu_percent: float = 0.0
    rss_bytes: int = 0
    loop_age_ms: int = 0
    zombie_threads: int = 0
    epoch: int = 0
    clock_offset_ms: int = 0
    rtt_ms: float = 0.0
    interval_ms: int = 2_000
    started_ms: int = 0
    at_ms: int = 0
    paused_here: bool = False
    superseded: bool = False
    whole: bool = True
    running: tuple[str, ...] = ()
    succeeded: Meter = field(default_factory=lambda: Meter(16))
    failed: Meter = field(default_factory=lambda: Meter(16))

    def update(self, seen: Seen, beat_s: float) -> None:
        """Take its newest heartbeat, which was at `beat_s` of monotonic seconds."""
        beat = seen.heartbeat
        self.name, self.host, self.pid = clean(beat.name), clean(beat.host, NAME_CHARS), beat.pid
        self.version, self.state, self.digest = clean(beat.version, 40), beat.state, clean(beat.digest, 80)
        self.queues = tuple(clean(queue) for queue in beat.queues[:200])
        self.paused = tuple(clean(queue) for queue in beat.paused[:200])
        self.concurrency, self.in_flight = beat.concurrency, beat.in_flight
        self.counters = {clean(name, 40): count for name, count in list(beat.counters.items())[:40]}
        self.cpu_percent, self.rss_bytes, self.loop_age_ms = beat.cpu_percent, beat.rss_bytes, beat.loop_age_ms
        self.zombie_threads, self.epoch, self.rtt_ms = beat.zombie_threads, beat.epoch, beat.rtt_ms
        self.clock_offset_ms, self.interval_ms = beat.clock_offset_ms, max(1, beat.interval_ms)
        self.started_ms, self.at_ms = beat.started_at_ms, seen.at_ms
        self.running = tuple(task.id for task in beat.running)
        self.whole = beat.in_flight <= len(beat.running)
        counters = beat.counters
        # Its counters are of that moment: read again before the next beat, they would tell of a pause and a burst.
        self.succeeded.read(counters.get("succeeded", 0), beat_s)
        self.failed.read(counters.get("failed", 0) + counters.get("retried", 0), beat_s)

    @property
    def rate_s(self) -> float:
        """Over how many of the last seconds its rates are: those of two heartbeats, though four at least."""
        return max(4.0, 2 * self.interval_ms / 1000)


@dataclass(slots=True)
class TaskLine:
    """One task, as far as it is known here.

    Attributes:
        owner: the key of its worker; `worker` is the name shown.
        state: a `TaskState`, or `dead` (a failed one that is kept as a dead letter) or `held`.
        changed_ms: when it came into this state, by the broker's clock as far as known.
        from_event: an event says so, not the broker's record; the next poll of the record may know better.
        turn: grows with every change of any task; `GONE` once it is forgotten. Tells a reader of the list what is new.
        limit_ms: how long it may run; 0 without a limit, or when nobody said.
        max_retries: how many retries it is allowed; None when nobody said.
    """

    key: str
    id: str
    task: str = ""
    queue: str = ""
    state: str = "queued"
    worker: str = ""
    owner: str = ""
    attempt: int = 0
    crashes: int = 0
    token: int = 0
    priority: int = 0
    changed_ms: int = 0
    enqueued_ms: int = 0
    due_ms: int = 0
    started_ms: int = 0
    finished_ms: int = 0
    error: str = ""
    message: str = ""
    progress: str = ""
    from_event: bool = False
    limit_ms: int = 0
    max_retries: int | None = None
    turn: int = 0

    @property
    def when_ms(self) -> int:
        """When what is last known of it happened."""
        return self.finished_ms or self.changed_ms

    def status(self, status: TaskStatus, state: str) -> None:
        """Take what its record says."""
        self.task, self.queue, self.state = shared(status.task), shared(status.queue), state
        self.attempt, self.crashes, self.token = status.attempt, status.crashes, status.token
        self.priority = status.priority
        self.enqueued_ms, self.due_ms = status.enqueued_at_ms or 0, status.due_at_ms or 0
        self.started_ms, self.finished_ms = status.started_at_ms or 0, status.finished_at_ms or 0
        self.changed_ms = max(self.enqueued_ms, self.started_ms, self.finished_ms)
        if status.error is not None:
            self.error, self.message = clean(status.error.type), clean(status.error.message, MESSAGE_CHARS)
            self.max_retries = status.error.max_retries
        elif status.reason:
            self.message = clean(status.reason, MESSAGE_CHARS)
        self.progress = progress_text(status.progress)
        self.from_event = False

    def runs(self, task: RunningTask, owner: str, worker: str, at_ms: int) -> None:
        """Take what its worker says of it in a heartbeat of `at_ms`."""
        if self.token != task.token or self.state != "running":
            self.error, self.message, self.finished_ms = "", "", 0
        self.task, self.queue, self.state, self.worker = shared(task.task), shared(task.queue), "running", worker
        self.owner = owner
        self.attempt, self.token, self.started_ms = task.attempt, task.token, task.started_at_ms
        self.limit_ms = task.limit_ms
        self.progress = progress_text(task.progress)
        self.changed_ms, self.from_event = at_ms, False

    def outlived(self, task: RunningTask) -> bool:
        """Say whether this run is over already: a beat is stored a little after it was written."""
        return self.state in _ENDED and self.attempt >= task.attempt and self.changed_ms >= task.started_at_ms > 0

    def final(self, row: FinalRow) -> None:
        """Take its line of history."""
        self.task, self.queue, self.state = shared(row.task), shared(row.queue), row.state.value
        self.attempt = row.attempt
        self.enqueued_ms, self.started_ms, self.finished_ms = row.enqueued_at_ms, row.started_at_ms, row.finished_at_ms
        self.error = shared(row.error_type) or self.error
        self.changed_ms, self.from_event = row.finished_at_ms, False


@dataclass(slots=True)
class EventLine:
    """One line of the tail; nobody changes it. `at_ms` by the broker's clock.

    `owner` is the key of the worker that it is about, where that is known; `worker` is the name shown.

    Not frozen: thousands are made a second, and making a frozen one takes three times as long.
    """

    key: str
    at_ms: int
    kind: str
    task: str = ""
    task_id: str = ""
    queue: str = ""
    worker: str = ""
    text: str = ""
    owner: str = ""


def shared(name: object) -> str:
    """Return a name of a task, queue or worker, clean; one string for the many rows that have it."""
    return intern(clean(name))


def event_line(event: Event, serial: int, worker: str, owner: str) -> EventLine:
    """Return an event as a line of the tail."""
    return EventLine(
        str(serial),
        event.at_ms,
        clean(event.kind, 40),
        shared(event.task),
        clean(event.task_id, 64),
        shared(event.queue),
        worker,
        event_text(event),
        owner,
    )


def event_text(event: Event) -> str:
    """Say in words what an event's detail holds."""
    detail, parts = event.detail, list[str]()
    if not detail and not event.attempt:
        return ""
    error, message = detail.get("error"), detail.get("message")
    if error or message:
        parts.append(": ".join(clean(part, MESSAGE_CHARS) for part in (error, message) if part))
    duration_ms = detail.get("duration_ms")
    if isinstance(duration_ms, int | float) and not isinstance(duration_ms, bool):
        parts.append(took_text(duration_ms))
    if event.attempt and event.kind.startswith("task."):
        parts.append(f"attempt {event.attempt}")
    if (progress := progress_text(detail.get("progress"))) != "":
        parts.append(progress)
    next_at_ms = detail.get("next_at_ms")
    if isinstance(next_at_ms, int) and next_at_ms > event.at_ms:
        parts.append(f"again in {(next_at_ms - event.at_ms) / 1000:.1f}s")
    if (how := detail.get("how")) and how != "finished":
        parts.append(clean(how, 80))
    if not parts and event.kind.startswith("worker."):
        known = ("error", "message", "duration_ms", "progress", "how", "next_at_ms")
        parts.extend(f"{clean(k, 40)} {clean(v, 80)}" for k, v in list(detail.items())[:6] if k not in known)
    return "  ".join(parts)


def worker_news(line: WorkerLine, before: str, now_ms: int) -> tuple[str, str]:
    """Return the kind of event that a new diagnosis is, and its text; an empty kind for none to tell of."""
    if line.diagnosis == "lost":
        return "worker.lost", f"no heartbeat since {(now_ms - line.at_ms) / 1000:.0f}s"
    if line.diagnosis == "stopped":
        return "worker.stopped", ""
    if line.diagnosis == "wedged":
        return "worker.wedged", f"the work loop has not ticked for {line.loop_age_ms / 1000:.0f}s"
    if line.diagnosis == "draining":
        return "worker.stopping", f"{line.in_flight} in flight"
    if before == "":
        return "worker.ready", f"takes {', '.join(line.queues[:8])}"
    if before in ("wedged", "lost"):
        return "worker.recovered", f"it was {before}"
    return "", ""


def pause_text(pause: Pause) -> str:
    """Say who paused something, and why."""
    reason = f': "{clean(pause.reason)}"' if pause.reason else ""
    return (f"by {clean(pause.actor)}" if pause.actor else "") + reason


def took_text(duration_ms: float) -> str:
    """Say how long something took."""
    return f"took {duration_ms / 1000:.1f}s" if duration_ms >= 1000 else f"took {duration_ms:.0f}ms"


def progress_text(value: Any) -> str:
    """Return what a handler reported as progress as short text: a share of 1 as per cent, else as it is."""
    if value is None:
        return ""
    if isinstance(value, float) and 0.0 <= value <= 1.0:
        return f"{value * 100:.0f}%"
    if isinstance(value, dict) and len(value) <= 4:
        return clean(" ".join(f"{name}={each}" for name, each in value.items()), 80)
    if isinstance(value, list | tuple) and len(value) == 2 and all(isinstance(each, int) for each in value):
        return f"{value[0]}/{value[1]}"
    return clean(value, 80)
