"""The broker's whole state behind one lock, and the moves of a task that every operation is made of.

Knows nothing of event loops, handles or commands. Every method is called inside `step()`.
"""

from __future__ import annotations

import heapq
import itertools
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Literal

from stem.adapters.memory.audit import Audit
from stem.adapters.memory.batches import Batches
from stem.adapters.memory.desired import CommandLog, DesiredState, ReplyLists
from stem.adapters.memory.fleet import Fleet
from stem.adapters.memory.line import Line
from stem.adapters.memory.ordered import OrderedIds
from stem.adapters.memory.record import Place, Record
from stem.adapters.memory.stats import History, Stats
from stem.adapters.memory.waiting import Bells, Subscription, WaitList
from stem.clock import Clock
from stem.contracts import Limits
from stem.errors import ConfigError
from stem.messages.names import check_name
from stem.messages.status import TaskState

DAY_MS: Final = 86_400_000
GONE_SOON_MS: Final = 60_000
PROMOTE_LIMIT: Final = 500
ANSWER_BYTES: Final = 1_048_576
"""Bodies in one answer to a worker, though always one delivery: as on a server, where a larger one may never arrive."""


class Core:
    """What all handles of one broker share. Its lock guards everything that hangs off it.

    The lock is held for one operation, never while anybody waits; `step()` takes it, reads the clock and lets go of
    what has expired, so each operation is one step at one time, as a script on a server is.
    """

    def __init__(self, namespace: str, clock: Clock, limits: Limits) -> None:
        self.namespace = namespace
        self.clock = clock
        self.limits = limits
        self.lock = threading.RLock()
        self.pid = os.getpid()
        self.born_ms = clock.wall_ms()
        self.handles = 0
        self.records: dict[str, Record] = {}
        self.order = OrderedIds()
        self.lines: dict[str, Line] = {}
        self.unique: dict[tuple[str, str], str] = {}
        self.owned: dict[str, dict[str, None]] = {}
        self.stats = Stats()
        self.history = History()
        self.fleet = Fleet(limits.lost_after_ms)
        self.desired = DesiredState()
        self.log = CommandLog()
        self.audit = Audit()
        self.replies = ReplyLists()
        self.batches = Batches()
        self.subscriptions: dict[Subscription, None] = {}
        self.bells = Bells()
        self.waits = WaitList()
        self._seq = 0
        self._places = itertools.count(1)
        self._tombstones: dict[str, tuple[int, str]] = {}
        self._going: list[tuple[int, str]] = []

    @property
    def forked(self) -> bool:
        """This is a copy in a child process, whose lock may be held for ever by a thread that was not copied."""
        return os.getpid() != self.pid

    @contextmanager
    def step(self) -> Iterator[int]:
        """Hold the lock for one operation and give its time.

        Raises:
            ConfigError: this is the copy of a forked process; what it took would be seen by nobody.
        """
        if self.forked:
            raise ConfigError(
                "this process was forked from the one that holds the in-memory broker, and shares nothing with it: use "
                "a server (STEM_BROKER_URL), or make the broker after the fork"
            )
        with self.lock:
            now = self.clock.wall_ms()
            while self._going and self._going[0][0] <= now:
                self.record(heapq.heappop(self._going)[1], now)
            for task in self.desired.end_pauses(now):
                self.release_held(task, now)
            self.replies.expire(now)
            yield now

    # ------------------------------------------------------------------------------------------------------ records

    def record(self, task_id: str, now: int) -> Record | None:
        """Return the record of a task, unless its time is over."""
        record = self.records.get(task_id)
        if record is not None and record.gone_ms is not None and record.gone_ms <= now:
            self.forget(record)
            return None
        return record

    def keep(self, record: Record) -> None:
        """Store a new record."""
        self._seq += 1
        record.seq = self._seq
        self.records[record.id] = record
        self.order.add(record.id, (record.seq, 0))

    def forget(self, record: Record) -> None:
        """Drop a record for good."""
        self.lines[record.queue].take(record)
        self.records.pop(record.id, None)
        self.order.remove(record.id)

    def leave_at(self, record: Record, gone_ms: int) -> None:
        """Let a final record expire at a time."""
        record.gone_ms = gone_ms
        heapq.heappush(self._going, (gone_ms, record.id))

    def line(self, queue: str) -> Line:
        """Return a queue, made when its first task comes."""
        line = self.lines.get(queue)
        if line is None:
            line = self.lines[check_name("queue", queue)] = Line(queue, self._places)
        return line

    def bury_id(self, task_id: str, now: int, reason: str) -> bool:
        """Remember for a day that an unknown id was revoked; False if that is known already."""
        while self._tombstones:
            oldest = next(iter(self._tombstones))
            if self._tombstones[oldest][0] > now:
                break
            del self._tombstones[oldest]
        if task_id in self._tombstones:
            return False
        self._tombstones[task_id] = (now + DAY_MS, reason)
        return True

    def tombstone(self, task_id: str, now: int) -> tuple[int, str] | None:
        """Return when and why an id was revoked that has not come yet; None if it was not."""
        until, reason = self._tombstones.get(task_id, (0, ""))
        return (until - DAY_MS, reason) if until > now else None

    def exhume_id(self, task_id: str, now: int) -> str | None:
        """Take the tombstone of an id away; return the reason on it, None if there is none."""
        until, reason = self._tombstones.pop(task_id, (0, ""))
        return reason if until > now else None

    # -------------------------------------------------------------------------------------------------------- moves

    def make_ready(self, record: Record, now: int) -> None:
        """Stand a task at the end of its priority's line."""
        record.state, record.owner, record.ready_ms = TaskState.QUEUED, "", now
        self.lines[record.queue].put(record, Place.READY, 0)

    def make_wait(self, record: Record, due_ms: int, *, retrying: bool) -> bool:
        """Let a task wait for its time; True if no other of its queue is due earlier."""
        line = self.lines[record.queue]
        earliest = line.next_due_ms()
        record.state = TaskState.RETRYING if retrying else TaskState.SCHEDULED
        record.owner, record.due_ms = "", due_ms
        line.put(record, Place.RETRYING if retrying else Place.DELAYED, due_ms)
        return earliest is None or due_ms < earliest

    def promote(self, line: Line, now: int) -> None:
        """Make ready what is due, a bounded number a call."""
        for index in (line.delayed, line.retrying):
            for _ in range(PROMOTE_LIMIT):
                due, task_id = index.first_score(), index.first()
                if due is None or task_id is None or due > now:
                    break
                self.make_ready(self.records[task_id], now)

    def hold(self, record: Record) -> None:
        """Put a ready task of a paused name aside, so that it does not stand in the way of others."""
        self.lines[record.queue].put(record, Place.HELD, 0)

    def release_held(self, task: str, now: int) -> None:
        """Put what was held for a task name back into its queues, in its old order."""
        for line in self.lines.values():
            held = line.held.get(task)
            if held is not None:
                for _key, task_id in list(held.after()):
                    self.make_ready(self.records[task_id], now)
                self.bells.ring(line.name)

    def start(self, record: Record, worker: str, lease_ms: int, now: int) -> None:
        """Hand a task to a worker: a new token, a new lease."""
        record.token += 1
        record.state, record.owner, record.worker = TaskState.RUNNING, worker, worker
        record.started_ms, record.lease_granted_ms, record.progress = now, lease_ms, b""
        self.lines[record.queue].put(record, Place.LEASED, now + lease_ms)
        self.owned.setdefault(worker, {})[record.id] = None
        record.note(now, "started", worker=worker)

    def holds(self, record: Record, worker: str, token: int) -> bool:
        """Say whether this worker, with this token, may do anything to a task."""
        return record.state is TaskState.RUNNING and record.token == token and record.owner == worker

    def disown(self, record: Record) -> None:
        """End a lease, whoever has it."""
        owned = self.owned.get(record.owner)
        if owned is not None:
            owned.pop(record.id, None)
            if not owned:
                del self.owned[record.owner]
        record.owner = ""

    def take_back(self, record: Record) -> None:
        """End the lease of a task that has to run again: no worker has to do with it until the next one starts it."""
        self.disown(record)
        record.worker = ""

    def finish(
        self,
        record: Record,
        state: TaskState,
        now: int,
        *,
        ttl_ms: int | None = DAY_MS,
        reason: str = "",
        error_type: str = "",
        worker: str = "",
    ) -> None:
        """Make a task final. `ttl_ms` None: a dead letter, which is kept until it is purged or too many."""
        line = self.lines[record.queue]
        self.disown(record)
        record.state, record.finished_ms, record.reason, record.due_ms = state, now, reason, None
        if ttl_ms is None:
            # Behind all others, whatever the clock says: the newest is never the one that leaves.
            line.put(record, Place.DEAD, max(now, -(line.dead.first_score() or 0)))
        else:
            line.take(record)
            self.leave_at(record, now + ttl_ms)
        if record.unique_key is not None and self.unique.get((record.task, record.unique_key)) == record.id:
            del self.unique[record.task, record.unique_key]
        record.note(now, state.value, worker=worker, detail=reason or error_type)
        self.stats.count(now, record.queue, record.task, state.value)
        self.history.add(record, now, error_type)
        self.waits.fire_all(f"done:{record.id}")
        if ttl_ms is None:
            self.trim_dead(line, now, but=record.id)

    def trim_dead(self, line: Line, now: int, *, but: str = "") -> None:
        """Let go of the dead letters that are too old or too many, with their records."""
        while (oldest := line.dead.last()) is not None and oldest != but:
            record = self.records[oldest]
            too_old = (record.finished_ms or 0) <= now - self.limits.dead_ttl_ms
            if not too_old and len(line.dead) <= self.limits.dead_count:
                break
            self.forget(record)

    def drop_dead(self, record: Record, now: int) -> None:
        """Take a dead letter out of its queue; its record follows in a minute."""
        self.lines[record.queue].take(record)
        self.leave_at(record, now + GONE_SOON_MS)

    def holder(self, task: str, unique_key: str | None, now: int) -> Record | None:
        """Return the unfinished task that holds a unique key.

        One that waits past its expiry is as good as over, and never starts; one that runs holds it to its end.
        """
        holder = self.record(self.unique.get((task, unique_key), ""), now) if unique_key is not None else None
        if holder is None or holder.state.final:
            return None
        late = holder.expires_ms is not None and holder.expires_ms <= now
        return None if late and holder.state is not TaskState.RUNNING else holder

    def replay(self, record: Record, now: int) -> Literal["queued", "duplicate"]:
        """Give a dead letter a new life under its id; the token goes on, so its old owner stays locked out.

        Refused while another unfinished task holds its unique key.
        """
        if self.holder(record.task, record.unique_key, now) is not None:
            return "duplicate"
        record.attempt = record.crashes = record.give_backs = record.first_give_back_ms = 0
        record.finished_ms = record.gone_ms = record.expires_ms = None
        record.reason, record.revoking, record.progress = "", False, b""
        if record.unique_key is not None:
            self.unique[record.task, record.unique_key] = record.id
        record.note(now, "replayed")
        self.stats.count(now, record.queue, record.task, "enqueued")
        self.make_ready(record, now)
        self.bells.ring(record.queue)
        return "queued"
