"""What an adapter provides, and what it promises: the only thing that producers, workers, operators and the dashboard
know about a broker. Knows messages; knows no adapter.

One object implements `Broker`; the four smaller contracts hang off it (`broker.presence`, `.control`, `.events`,
`.census`). A broker object belongs to one event loop; `clone()` makes another handle with connections of its own for
another loop (the worker's vitals thread). Promises that hold for every method:

* **Atomic.** Each change of a task's place is one step: it happens completely or not at all.
* **Safe to send twice.** Repeating a call whose reply was lost changes nothing more and answers the same; those that
  say what they changed (`purge`, `discard`, `replay`, `retry_now`) then answer that there is nothing left to change.
* **The broker's clock.** Due times, expiry, leases and every `*_ms` in an answer are Unix milliseconds of the broker.
* **Outcomes.** `BrokerUnreachableError`: certainly not applied. `UnknownOutcomeError`: perhaps applied.
  `BrokerRefusedError`: refused by the server. Nothing else about the connection escapes.
* **Untrusted.** Stored data that cannot be decoded is reported or skipped item by item; one bad record stops nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase
from itertools import pairwise
from typing import Literal, Protocol

from stem.messages.audit import AuditOutcome, Deed
from stem.messages.command import Command, Reply
from stem.messages.event import Event
from stem.messages.heartbeat import Heartbeat
from stem.messages.status import TaskState, TaskStatus
from stem.record import record


@record
class Limits:
    """The bounds an adapter keeps; given when it is made.

    Attributes:
        queue_length: ready + delayed + retrying + held tasks of one queue, over which `enqueue` answers `full`.
        dead_count, dead_ttl_ms: dead letters kept per queue; the oldest go first.
        lost_after_ms: without a beat a worker is lost (three intervals).
    """

    queue_length: int | None = None
    dead_count: int = 10_000
    dead_ttl_ms: int = 30 * 86_400_000
    lost_after_ms: int = 6_000


# ----------------------------------------------------------------------------------------------------------- producing


@record
class NewTask:
    """One task to enqueue: the body bytes and what the broker must know without reading them.

    Attributes:
        signature: of the body, as `PayloadSigner` made it; empty when unsigned.
        delay_ms, eta_ms: at most one is set; neither, or one that is past, means ready at once.
        expires_in_ms, expires_ms: at most one is set.
        lease_ms: only when the producer set a visibility timeout.
        unique_key: while a task of this name with this key is not final, enqueueing another returns its id. One that
            still waits when its expiry has passed holds the key no more.
    """

    id: str
    task: str
    queue: str
    body: bytes
    signature: bytes = b""
    priority: int = 0
    delay_ms: int | None = None
    eta_ms: int | None = None
    expires_in_ms: int | None = None
    expires_ms: int | None = None
    lease_ms: int | None = None
    unique_key: str | None = None


@dataclass(frozen=True, slots=True)
class Enqueued:
    """What became of one `NewTask`.

    Attributes:
        id: of the task that now stands for it: its own, or for `duplicate` the holder of the unique key.
        outcome: `queued`, `scheduled`, `exists` (this id with this very body was enqueued before, its lineage aside),
            `duplicate`, `revoked` (the id was revoked before it came; it is final), `full` (the queue's limit; not
            enqueued), `conflict` (this id has another body; not enqueued).
    """

    id: str
    outcome: Literal["queued", "scheduled", "exists", "duplicate", "revoked", "full", "conflict"]

    @property
    def taken(self) -> bool:
        """A task stands for it now."""
        return self.outcome not in ("full", "conflict")


# ------------------------------------------------------------------------------------------------------------- working


@dataclass(slots=True, kw_only=True)
class Delivery:
    """A task handed to one worker under a lease. `token` is the right to settle it.

    Attributes:
        give_backs: how often workers gave it back because they could not run it; `first_give_back_ms` when that began.
    """

    id: str
    task: str
    token: int
    queue: str
    body: bytes
    signature: bytes = b""
    priority: int = 0
    attempt: int = 0
    crashes: int = 0
    lease_ms: int = 30_000
    enqueued_at_ms: int = 0
    started_at_ms: int = 0
    give_backs: int = 0
    first_give_back_ms: int = 0


@record
class FetchRequest:
    """Ask for up to `count` deliveries.

    Attributes:
        queues: in the order to be asked this time; the caller rotates it. Within a queue, priority 9 comes before 0.
        lease_ms: for tasks that carry none; `leases` overrides it by task name.
        epoch: of the desired state this worker has applied; older than the fence, and the answer is `stale`.
    """

    queues: Sequence[str]
    count: int
    lease_ms: int = 30_000
    leases: Mapping[str, int] = field(default_factory=dict)
    epoch: int = 0


@record
class Expired:
    """A task that a fetch found too late to start: final now, and never handed out. `attempt` as of a delivery."""

    id: str
    task: str
    queue: str
    body: bytes
    signature: bytes = b""
    attempt: int = 0


class Outcome(StrEnum):
    """How a delivery ends."""

    SUCCEEDED = "succeeded"
    DEAD = "dead"
    """Becomes a dead letter, final state `failed`, with `reason`."""
    RETRY = "retry"
    """Attempt + 1, again after `delay_ms`. Becomes `revoked` instead if it was revoked meanwhile."""
    GIVE_BACK = "give_back"
    """Back to its queue after `delay_ms`, attempt unchanged (a stopping worker, a name it does not know)."""
    CRASHED = "crashed"
    """As if the worker had been lost under it: crashes + 1, dead letter `poison` at the limit."""
    REVOKED = "revoked"
    EXPIRED = "expired"


@dataclass(slots=True, kw_only=True)
class Settlement:
    """The end of one delivery.

    Attributes:
        result: packed, for `succeeded`.
        error: an encoded `ErrorInfo`, for `dead` and `retry`; kept as the record's last error.
        error_type: its type's name, for the history row; printable ASCII without tabs, at most 100 characters.
        unknown: for `give_back`: counts in `give_backs`, because this worker cannot run it.
        ttl_ms: how long the record is kept once final (dead letters are kept until purged, whatever this says).
    """

    id: str
    token: int
    outcome: Outcome
    result: bytes = b""
    error: bytes = b""
    error_type: str = ""
    reason: str = ""
    delay_ms: int = 0
    unknown: bool = False
    ttl_ms: int = 86_400_000


SettleAnswer = Literal["applied", "already", "lost", "buried", "revoked"]


@dataclass(slots=True, kw_only=True)
class Exchange:
    """The answer to settling some deliveries and fetching others in one round trip.

    Attributes:
        settled: one answer per settlement, in order: `applied`, `already` (this token settled it before), `lost` (the
            token or the owner is another one now: nothing was changed), `buried` (a crash was applied, and was the one
            too many: the task is a dead letter `poison` now), or `revoked` (it was to run again, and had been revoked
            while it ran: that is its end). The last two are said again where the same is settled again.
        more: there was more to take than was asked for, or than one answer holds.
        stale: nothing was handed out, because the worker's epoch is behind the fence; read the control log first.
        next_due_ms: in how many milliseconds the next delayed task of these queues is due; None if there is none.
        mended: queues that had lost a part that is never removed, and got it anew: look for tasks that stand nowhere.
        expired: tasks that this fetch ended because they came too late; no other answer tells of them.
    """

    settled: Sequence[SettleAnswer] = ()
    deliveries: Sequence[Delivery] = ()
    more: bool = False
    stale: bool = False
    next_due_ms: int | None = None
    now_ms: int = 0
    mended: Sequence[str] = ()
    expired: Sequence[Expired] = ()


@record
class Swept:
    """What one sweep for lost leases did: how many went back to their queue, and how many were buried as poison.

    `more`: it took as many as one sweep may; the next one looks at once.
    """

    requeued: int = 0
    buried: int = 0
    skipped: Literal["", "recent", "outage"] = ""
    more: bool = False


# ------------------------------------------------------------------------------------------------------------ presence


@record
class Lease:
    """A lease to renew: for `lease_ms` from now, if `token` still holds it."""

    id: str
    token: int
    lease_ms: int
    queue: str


@record
class Measured:
    """Durations since the last beat of one (queue, task): how many, sums, and a log2 histogram of run time.

    Attributes:
        buckets: index k counts run times of [2^(k-1), 2^k) milliseconds; index 0 those under one.
    """

    queue: str
    task: str
    count: int
    wait_ms: int
    run_ms: int
    buckets: Mapping[int, int]


@record
class Beat:
    """What a worker sends every interval. The last one has a heartbeat with state `stopped`.

    Attributes:
        redacted: by task name, arguments that nobody is to be shown. Added to what is kept for the name, and never
            forgotten: tasks of before may still be looked at. Kept for 10 000 names, in 20 000 characters each.
    """

    heartbeat: Heartbeat
    leases: Sequence[Lease] = ()
    progress: Mapping[str, bytes] = field(default_factory=dict)
    measured: Sequence[Measured] = ()
    redacted: Mapping[str, Sequence[str]] = field(default_factory=dict)


@record
class BeatAnswer:
    """What a worker learns from its beat.

    Attributes:
        lost: ids of `leases` that another worker holds, or nobody: stop them, they cannot be settled.
        revoked: ids of `leases` whose revoke was asked for.
        epoch: of the desired state; other than the one applied means: read the control log.
        watched: somebody holds a watch lease: emit events.
        known: the broker had heard of this worker before. Not so at its first beat, and when the broker lost its data.
        fleet: workers that have beaten within the last ten seconds, this one included.
    """

    now_ms: int
    epoch: int
    lost: Sequence[str] = ()
    revoked: Sequence[str] = ()
    watched: bool = False
    known: bool = True
    fleet: int = 1


@record
class Seen:
    """A worker as the broker last heard it. `age_ms` since its last beat."""

    heartbeat: Heartbeat
    at_ms: int
    age_ms: int

    @property
    def stopped(self) -> bool:
        return self.heartbeat.state == "stopped"

    @property
    def lost(self) -> bool:
        """No beat for three intervals, and no goodbye."""
        return not self.stopped and self.age_ms > 3 * self.heartbeat.interval_ms


def superseded(seen: Iterable[Seen]) -> set[str]:
    """Return the ids of lost workers that came again: another of the same name has started after their last beat.

    One that was there before is no second life of it: workers of one host have the host's name unless told otherwise.
    """
    known = list(seen)
    lost = [worker for worker in known if worker.lost]
    started: dict[str, list[tuple[int, str]]] = {worker.heartbeat.name: [] for worker in lost}
    for worker in known:
        if (starts := started.get(worker.heartbeat.name)) is not None:
            starts.append((worker.heartbeat.started_at_ms, worker.heartbeat.id))
    for starts in started.values():
        starts.sort(reverse=True)

    def last_start_ms(of: Heartbeat) -> int:
        return next((at_ms for at_ms, worker_id in started[of.name] if worker_id != of.id), 0)

    return {worker.heartbeat.id for worker in lost if last_start_ms(worker.heartbeat) > worker.at_ms}


class Presence(Protocol):
    """Who is there."""

    async def beat(self, beat: Beat) -> BeatAnswer:
        """Store the heartbeat, renew the leases that still hold, and say what has changed."""

    async def workers(self) -> list[Seen]:
        """Return every worker that beat within the last hour, also lost and stopped ones, by name then start time."""


# ------------------------------------------------------------------------------------------------------------- control


PauseKind = Literal["queue", "task", "worker"]


@record
class Pause:
    """Nothing of this queue, task name or worker (id or name) is handed out until it is resumed or `until_ms` comes."""

    kind: PauseKind
    target: str
    actor: str = ""
    reason: str = ""
    at_ms: int = 0
    until_ms: int | None = None


@record
class RevokeTasks:
    """Make these ids final wherever they wait; mark them where they run; remember ids that are unknown for a day."""

    ids: Sequence[str]
    terminate: bool = False


@record
class SetPause:
    kind: PauseKind
    targets: Sequence[str]
    for_ms: int | None = None


@record
class ClearPause:
    kind: PauseKind
    targets: Sequence[str]


@record
class SetDrain:
    """Drain these worker ids (unique per start, so a new process of the same name is not drained)."""

    workers: Sequence[str]


@record
class ClearDrain:
    workers: Sequence[str]


@record
class SetShutdown:
    """Stop these worker ids."""

    workers: Sequence[str]
    mode: Literal["warm", "soft", "hard"]


Change = RevokeTasks | SetPause | ClearPause | SetDrain | ClearDrain | SetShutdown


@record
class ChangeItem:
    """What a change did to one target.

    Attributes:
        outcome: of a revoke: `revoked` (it waited, now it is final), `running` (marked; `worker` has it), `stored`
            (the id is unknown: a tombstone waits for it), `already`, `final` (it was final before; `state` says
            how). Of the others: `set`, `cleared`, `already`.
    """

    target: str
    outcome: str
    changed: bool
    worker: str = ""
    state: str = ""


@record
class Issued:
    """A command that is now stored: its epoch, what it changed, and who is there to answer it.

    Attributes:
        audit: names its row in the audit, for `conclude`; empty for a question, which has none.
    """

    epoch: int
    now_ms: int
    items: Sequence[ChangeItem] = ()
    workers: Sequence[Seen] = ()
    audit: str = ""


@record
class Logged:
    """A command as the log holds it. `epoch` is its place in the order; `issued_at_ms` by the broker's clock.

    `signature` is of the very bytes of `command`; empty for an unsigned one.
    """

    epoch: int
    issued_at_ms: int
    command: bytes
    signature: bytes = b""


@record
class WakeUp:
    """Something is there to be read.

    Attributes:
        question: the one that the wake-up is for, as the log holds it, where the broker says it along. It is a hint
            that anybody may give who may publish: good enough for an answer, never for a change.
    """

    question: Logged | None = None


@record
class Desired:
    """Desired state and the commands behind it, read in one step.

    Attributes:
        epoch: the newest one; every command up to it is either in `log` or older than the cursor asked for.
        drained: worker ids; `shutdown` maps worker ids to the mode.
        reset: the broker's epoch is behind the cursor (it lost data): take this state as it is. `log` is the newest
            1 000 entries then, what was commanded since among them.
    """

    epoch: int
    fence: int
    now_ms: int
    log: Sequence[Logged] = ()
    pauses: Sequence[Pause] = ()
    drained: Collection[str] = ()
    shutdown: Mapping[str, str] = field(default_factory=dict)
    reset: bool = False


class ControlChannel(Protocol):
    """Commands that are stored first and answered; pub/sub only makes them fast."""

    async def issue(self, command: Command, change: Change | None = None) -> Issued:
        """Store the change, append the command to the log, raise the epoch, write the audit row, wake the workers.

        All in one step, and once per `command.id`. A change other than a revoke also raises the fence to this epoch: no
        worker that has not seen it is handed another task. (A revoke needs none: the record itself says so.)
        """

    async def record(self, deed: Deed) -> str:
        """Write the audit row of what is done without a command, before it is done, and return the row's name.

        Once per `deed.id`.
        """

    async def conclude(self, audit: str, outcome: AuditOutcome) -> bool:
        """Add to an audit row what came of it; the first outcome stays. False when there is no such row (any more).

        Whoever dies before leaves the row without one: what came of it nobody said.
        """

    async def read(self, after_epoch: int) -> Desired:
        """Return desired state and the log after `after_epoch` (at most the last 24 hours, at most 1 000 entries)."""

    async def subscribe(self) -> None:
        """Start listening for wake-ups, and return once the server has confirmed it."""

    async def wake(self, timeout_s: float) -> WakeUp | None:
        """Wait for a wake-up; None when `timeout_s` passed without one.

        Raises:
            BrokerUnreachableError: the subscription is dead, also when a half-open connection did not answer a ping in
                time. Call `subscribe` again, then `read`.
        """

    async def reply(self, reply: Reply, *, keep_ms: int) -> None:
        """Append a reply to its request's, which expire `keep_ms` from now.

        Repeated, it stands there twice: readers take the first of each worker and stage.
        """

    async def replies(self, command_id: str, *, timeout_s: float) -> list[Reply]:
        """Return the replies that this handle has not returned yet, waiting up to `timeout_s` for the first of them.

        [] when none came. Ill-formed replies are dropped. What got lost on the way is returned by the next call.
        """


# ----------------------------------------------------------------------------------------------------------- observing


@record
class EventBatch:
    """Events after a cursor. `missed` is true when the cursor is older than what is kept (60 s)."""

    events: Sequence[Event]
    cursor: str
    missed: bool = False


class EventLog(Protocol):
    """Task events, kept for a minute, written only while somebody watches."""

    async def emit(self, events: Sequence[Event]) -> None:
        """Append one batch. Never raises for lack of memory: events are dropped then.

        Repeated, it stands there twice: readers know an event by its worker and `seq`.
        """

    async def watch(self, watcher: str, *, for_ms: int) -> None:
        """Hold (or renew) a watch lease; workers learn of it with their next beat, or at once when it is the first."""

    async def unwatch(self, watcher: str) -> None:
        """Give the lease back."""

    async def tail(self) -> str:
        """Return the cursor of the newest batch."""

    async def read(self, cursor: str, *, timeout_s: float) -> EventBatch:
        """Return what came after `cursor`, waiting up to `timeout_s` for something."""


@record
class QueueRow:
    """One queue, counted in O(log n).

    Attributes:
        ready: waiting and due, also those that `tasks` lists as scheduled or retrying until somebody fetches them;
            `delayed` scheduled for later; `retrying` waiting for the next attempt; `held` waiting because their task
            name is paused.
        oldest_ms: age of the oldest ready one, None when there is none.
        consumers: live workers that take from it.
    """

    name: str
    ready: int = 0
    delayed: int = 0
    retrying: int = 0
    held: int = 0
    in_flight: int = 0
    dead: int = 0
    oldest_ms: int | None = None
    pause: Pause | None = None
    consumers: int = 0
    enqueued_total: int = 0


@record
class TaskPage:
    """Some tasks of one state, `next` the cursor for more, `total` where counting is O(1)."""

    items: Sequence[TaskStatus]
    next: str | None = None
    total: int | None = None


@record
class FinalRow:
    """One line of history."""

    id: str
    task: str
    queue: str
    state: TaskState
    worker: str
    attempt: int
    enqueued_at_ms: int
    started_at_ms: int
    finished_at_ms: int
    error_type: str = ""


@record
class MinuteRow:
    """What happened in one minute to one (queue, task). `at_ms` is the minute's start.

    Attributes:
        counts: `enqueued succeeded failed retried revoked expired crashed handed_back`.
    """

    at_ms: int
    queue: str
    task: str
    counts: Mapping[str, int]
    measured: Measured | None = None


@record
class ServerInfo:
    """The server behind the broker. `url` has no secret in it.

    Attributes:
        policy: what it does when memory is full; anything but `noeviction` loses tasks.
        persistent: an append-only file is on.
        refusal: what it said to a write that it refused; empty where it is `writable`.
    """

    kind: str
    version: str
    url: str
    namespace: str
    policy: str = "noeviction"
    persistent: bool = True
    used_memory_bytes: int = 0
    max_memory_bytes: int = 0
    clients: int = 0
    uptime_s: int = 0
    now_ms: int = 0
    writable: bool = True
    refusal: str = ""


@record
class AuditRow:
    """Who asked for what, and what came of it. All of its text is what the sender said of itself.

    Attributes:
        id: names the row; `command_id` the command or deed.
        verb: `revoke pause resume drain undrain shutdown`, or `purge discard replay retry`.
        kind, option: of a pause `queue task worker` and its length in ms; the mode of a shutdown; `terminate`.
        targets: the first ones, `count` how many there were; no targets of a command mean all.
        stored: what the step itself did, as number of targets by outcome; empty for what is done in several steps.
        outcome: None: whoever gave the command has not said how it ended, or died before; `ended_at_ms` when it did.
    """

    id: str
    at_ms: int
    verb: str
    command_id: str = ""
    actor: str = ""
    reason: str = ""
    kind: str = ""
    option: str = ""
    targets: Sequence[str] = ()
    count: int = 0
    epoch: int = 0
    stored: Mapping[str, int] = field(default_factory=dict)
    outcome: AuditOutcome | None = None
    ended_at_ms: int | None = None

    def fits(self, *, verb: str | None, actor: str | None, target: str | None) -> bool:
        """Say whether `Census.audit` lists this row when it is asked for these."""
        return (
            verb in (None, self.verb)
            and (actor is None or fnmatchcase(self.actor, actor))
            and (target is None or self._may_name(target))
        )

    def _may_name(self, target: str) -> bool:
        """Say whether it names this, or more than was kept; a `--queue mail` in `option` names mail."""
        if self.count > len(self.targets):
            return True
        words = self.option.split()
        chosen_by = (word for flag, word in pairwise(words) if flag in ("--queue", "--task"))
        return any(fnmatchcase(one, target) for one in (*self.targets, *chosen_by))


@record
class AuditPage:
    """Some rows of the audit, newest first, `next` the cursor for more, `total` of all where nothing was filtered."""

    items: Sequence[AuditRow]
    next: str | None = None
    total: int | None = None


@record
class Stray:
    """A key that should not be there.

    Attributes:
        why: `unknown` (no key of Stem's has this form), `orphan` (nothing refers to it), `endless` (it should expire).
    """

    key: str
    why: Literal["unknown", "orphan", "endless"]


@record
class Leftover:
    """A consumer of a queue whose worker nobody knows any more; `pending` deliveries stand in its name."""

    queue: str
    worker: str
    pending: int = 0


@record
class Overdue:
    """Leases of a queue that ran out and were not taken back: how many (at most 100), the oldest since `late_ms`."""

    queue: str
    tasks: int
    late_ms: int


@record
class Examination:
    """What a look into the server and its keys has found; no judgement.

    Attributes:
        settings: the server's, by name; empty where they cannot be read.
        state: what it says of itself: `role connected_slaves aof_enabled aof_last_write_status rdb_last_bgsave_status`.
        strays: the first ones; `keys_seen` of the namespace were looked at, all of them if `complete`.
        refused: what could not be looked at, and why: `settings keys consumers leases`.
    """

    settings: Mapping[str, str] = field(default_factory=dict)
    state: Mapping[str, str] = field(default_factory=dict)
    strays: Sequence[Stray] = ()
    keys_seen: int = 0
    complete: bool = True
    leftovers: Sequence[Leftover] = ()
    overdue: Sequence[Overdue] = ()
    refused: Mapping[str, str] = field(default_factory=dict)


ListState = Literal[
    "queued", "running", "scheduled", "retrying", "held", "dead", "succeeded", "failed", "revoked", "expired"
]


class Census(Protocol):
    """Read-only counts and listings; bounded work per call, whatever the backlog."""

    async def queues(self, names: Sequence[str] = (), *, workers: Sequence[Seen] | None = None) -> list[QueueRow]:
        """Return the known queues (or those of `names` that are known), by name.

        Args:
            workers: from `presence`, by whoever has just read them: their consumers are counted without a second look.
        """

    async def tasks(
        self, state: ListState, *, queue: str | None = None, cursor: str | None = None, limit: int = 50
    ) -> TaskPage:
        """Return tasks of one state; the statuses have no timeline, result or meta, which may be large: ask
        `Broker.statuses` for them. `queue` None means all queues.

        Waiting ones come in the order they will run, `running` by lease deadline, `dead` newest first, final ones
        newest first from history.

        Raises:
            InvalidInputError: a cursor that this broker did not make.
        """

    async def history(self, limit: int = 1_000) -> list[FinalRow]:
        """Return the newest final rows, newest first; at most 10 000 are kept."""

    async def minutes(self, count: int = 60) -> list[MinuteRow]:
        """Return the rows of the last `count` minutes (at most 180), oldest first, this minute included."""

    async def pauses(self) -> list[Pause]:
        """Return what is paused now."""

    async def audit(
        self,
        *,
        verb: str | None = None,
        actor: str | None = None,
        target: str | None = None,
        cursor: str | None = None,
        limit: int = 50,
    ) -> AuditPage:
        """Return rows of the audit, newest first; at most some 10 000 are kept. Questions (ping, inspect) have none.

        Args:
            verb: only rows of this one; `actor` and `target` are exact or globs (`fnmatch`), `target` matches
                what a row names or was chosen by; a row that names only the first of its targets fits every one.

        Raises:
            InvalidInputError: a cursor that this broker did not make.
        """

    async def redacted(self, task: str) -> tuple[str, ...]:
        """Return the arguments of this task name that workers asked to hide, sorted."""

    async def info(self) -> ServerInfo:
        """Ask the server about itself, with a write that proves it takes writes."""

    async def examine(self, *, keys: int = 50_000) -> Examination:
        """Look for what is wrong behind the scenes. Reads only; looks at no more than about `keys` keys of the server.

        What the server refuses to show (settings of a managed one, rights that are missing) is named, not raised.
        """


# -------------------------------------------------------------------------------------------------------------- broker


class Broker(Protocol):
    """The whole of it."""

    @property
    def namespace(self) -> str: ...

    @property
    def url(self) -> str:
        """Where it is, without secrets, for people."""

    @property
    def presence(self) -> Presence: ...

    @property
    def control(self) -> ControlChannel: ...

    @property
    def events(self) -> EventLog: ...

    @property
    def census(self) -> Census: ...

    def clone(self) -> Broker:
        """Return another handle on the same broker, with connections of its own, for another event loop."""

    def blocking(self) -> BlockingBroker:
        """Return a handle for code without an event loop, with a connection of its own."""

    async def close(self) -> None:
        """Close this handle's connections; safe to call twice. It may refuse everything afterwards."""

    async def enqueue(self, tasks: Sequence[NewTask]) -> list[Enqueued]:
        """Take a batch, in order, in one round trip per 500; one answer per task."""

    async def exchange(self, worker: str, settlements: Sequence[Settlement], fetch: FetchRequest | None) -> Exchange:
        """Settle, then fetch, in one round trip. Settlements leave no task out when one of them is lost.

        A worker is handed only one task at a time that one more crash would bury; others are put off for a second. So
        a task that kills its workers takes none with it that only ran beside it.

        An answer holds at most 1 MiB of bodies, those of expired tasks among them, though always one: it must arrive
        whole and in time, over a slow link too. What has no room keeps its place, and `more` says so.
        """

    async def idle(self, queues: Sequence[str], timeout_s: float) -> None:
        """Return when there may be something to fetch from these queues, or after `timeout_s`.

        One new task wakes one idle worker. A wake-up may be lost with its connection, so `timeout_s` is at most 2 s.
        """

    async def adopt(self, worker: str, queues: Sequence[str], known: Collection[str]) -> list[Delivery]:
        """Return deliveries this worker owns but does not know of, tokens unchanged: their fetch reply got lost.

        Those in the answer begin their lease anew. It holds as much as that of `exchange`: ask again, with these among
        the known ones, until it is empty. What was handed out longer ago than its lease is long is not among them: it
        cannot be received here, it seems, so its lease runs out and others get it. Nor is what was revoked meanwhile:
        it must not begin any more, and its lease ends at once.
        """

    async def sweep(self, queues: Sequence[str], *, max_crashes: int = 3, worker: str = "") -> Swept:
        """Give tasks whose lease ran out back to their queues; crashes + 1 if their owner is lost.

        Bounded (`more` asks for another at once), rate-limited over the fleet, and put off for two beats after a gap in
        the whole fleet's heartbeats (the server was away, nobody could renew).
        """

    async def leave(self, worker: str, queues: Sequence[str]) -> None:
        """Forget this worker's consumers where they own nothing; the last thing a worker does."""

    async def extend(self, worker: str, lease: Lease) -> bool:
        """Renew one lease now; False if it is lost."""

    async def statuses(self, ids: Sequence[str], *, timeline: bool = True) -> list[TaskStatus | None]:
        """Return what the records say, None for ids without one.

        An id that was revoked before it came has one: it is revoked, of no task and no queue.
        """

    async def body(self, task_id: str) -> tuple[bytes, bytes] | None:
        """Return the body and signature of a task, or None."""

    async def wait(self, task_id: str, timeout_s: float) -> TaskStatus | None:
        """Return the status once it is final, pushed by the broker, or as it is when `timeout_s` has passed."""

    async def replay(self, ids: Sequence[str]) -> dict[str, str]:
        """Give dead letters a new life: same id, attempt and crashes 0, the token goes on.

        Returns:
            Per id `queued`, `not-dead`, `duplicate` (another unfinished task holds its unique key) or `unknown`.
        """

    async def retry_now(self, ids: Sequence[str]) -> dict[str, str]:
        """Make scheduled and retrying tasks due at once; replay dead ones.

        Returns:
            Per id `queued`, `already` (waits or runs), `final`, `duplicate` (as `replay`) or `unknown`.
        """

    async def purge(self, queue: str, what: Literal["waiting", "dead"], *, limit: int = 500) -> int:
        """Remove up to `limit` tasks and return how many went; call again until it returns 0.

        `waiting`: ready, delayed, retrying and held ones; they become `revoked`. `dead`: its dead letters; their
        records expire in a minute.
        """

    async def discard(self, queue: str, ids: Sequence[str]) -> int:
        """Remove these dead letters of a queue; returns how many there were."""

    async def reconcile(self, cursor: str = "0", *, limit: int = 500) -> tuple[str, int]:
        """Look at some records and put waiting tasks that stand in no queue back into theirs.

        Returns:
            The next cursor ("0" when the round is complete) and how many were repaired.
        """


class BlockingBroker(Protocol):
    """The producer's part of a broker, for code without an event loop. Safe to use from several threads."""

    @property
    def namespace(self) -> str: ...

    @property
    def url(self) -> str: ...

    def enqueue(self, tasks: Sequence[NewTask]) -> list[Enqueued]: ...

    def statuses(self, ids: Sequence[str], *, timeline: bool = True) -> list[TaskStatus | None]: ...

    def wait(self, task_id: str, timeout_s: float, *, limit_s: float | None = None) -> TaskStatus | None:
        """Return a task's status once it is final, or as it is after `timeout_s`; None if there is no record.

        Args:
            limit_s: a server that does not answer is given up after this long, with a `BrokerError`.
        """

    def cancel(self, task_id: str, command: Command) -> ChangeItem: ...

    def close(self) -> None: ...


class ResultBackend(Protocol):
    """A copy of final statuses on a server of its own. The broker's record stays the truth while it exists."""

    async def store(self, status: TaskStatus, *, ttl_ms: int) -> bool:
        """Keep `status`; the higher token wins, for equal tokens the first. False if another one stays."""

    async def get(self, task_id: str) -> TaskStatus | None: ...

    def clone(self) -> ResultBackend:
        """Return another handle on the same results, with connections of its own, for another event loop."""

    async def close(self) -> None:
        """Close this handle's connections; safe to call twice. Other handles stay open."""
