"""What the work loop and the vitals thread both look at: jobs, counters, measurements, events, and what is asked of the
worker. Knows no broker.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final

from stem.contracts import Expired, Measured, Pause, Settlement
from stem.messages.event import Event
from stem.worker.job import Job

COUNTERS: Final = ("started", "succeeded", "failed", "retried", "revoked", "expired", "lost", "handed_back")
FLUSH_EVERY_S: Final = 0.05
LONGEST_FLUSH_S: Final = 5.0
BATCHES_PER_S: Final = 200
"""Of events, by all workers together, while somebody watches: a dashboard that is opened shall not load the broker."""
ROUTINE: Final = frozenset({"task.received", "task.started", "task.succeeded"})
"""Events of a task that goes well. They have a share of their own, so that no flood of them hides a failure."""
ROUTINE_PER_SECOND: Final = 2_000
OTHERS_PER_SECOND: Final = 3_000
PROGRESS_BYTES: Final = 64 * 1024
"""Of progress values in one heartbeat: it renews the leases, and has to arrive in time over a slow link too."""
NO_DETAIL: Final[Mapping[str, Any]] = {}


class Tally:
    """Run times of one (queue, task) since the last beat."""

    __slots__ = ("buckets", "count", "run_ms", "wait_ms")

    def __init__(self) -> None:
        self.count = 0
        self.wait_ms = 0.0
        self.run_ms = 0.0
        self.buckets: dict[int, int] = {}


class Board:
    """One worker's shared state.

    The work loop owns `slots_used` and `tallies`; the vitals thread owns everything about control: `epoch`, `stopping`,
    `draining`, `paused_self`, `paused_queues`, `watched`. Each side only reads the other's. Reads go through copies
    made in one bytecode (`list(d.values())`), writes are single assignments, so no lock is needed.

    `jobs` and `counters` are the work loop's until a rescue, in which the vitals thread settles what the loop does not:
    then both conclude jobs, take them off and count them. A count may be lost where both count at once, an end is not.
    Of `awaited` the vitals thread makes the entries, and whoever takes the job off takes its entry.
    """

    def __init__(self, *, queues: Sequence[str], concurrency: int) -> None:
        self.queues: Final = tuple(queues)
        self.concurrency: Final = concurrency
        self.jobs: dict[str, Job] = {}
        self._concluding = threading.Lock()
        self.slots_used = 0
        self.zombies = 0
        self.counters: dict[str, int] = dict.fromkeys(COUNTERS, 0)
        self.tallies: dict[tuple[str, str], Tally] = {}
        self.progress: dict[str, bytes] = {}
        self.events: deque[Event] = deque(maxlen=2 * (ROUTINE_PER_SECOND + OTHERS_PER_SECOND))
        self.ticked_at: float | None = None
        self.epoch = 0
        self.stopping = False
        self.draining = False
        self.paused_self = False
        self.paused_queues: frozenset[str] = frozenset()
        self.paused_tasks: frozenset[str] = frozenset()
        self.watched = False
        self.fleet = 1
        self.clock_offset_ms = 0
        self.shortest_lease_s = 3600.0
        self._sequence = 0
        self._second_began = time.monotonic()
        self._new_second = False
        self._routine = 0
        self._others = 0
        self._skipped = 0
        self._skipped_routine = 0
        self.worker_id = ""
        self.awaited: dict[str, Callable[[Job], None]] = {}
        """Ids whose end somebody waits for; called when the job is taken off."""
        self.on_empty: Callable[[], None] = _nothing
        """Called when the last job is taken off."""

    # ------------------------------------------------------------------------------------------------------ any thread

    def snapshot(self) -> list[Job]:
        """Return the jobs of this moment: delivered and not settled."""
        return list(self.jobs.values())

    def now_ms(self) -> int:
        """Return the broker's clock, as the last beat let us estimate it."""
        return time.time_ns() // 1_000_000 + self.clock_offset_ms

    def loop_age_s(self) -> float:
        """Return for how long the work loop has not ticked; 0 before its first tick.

        Until then it may be waiting for the broker, which no new start would bring back.
        """
        return 0.0 if self.ticked_at is None else time.monotonic() - self.ticked_at

    @property
    def accepting(self) -> bool:
        return not (self.stopping or self.draining or self.paused_self)

    def open_queues(self) -> tuple[str, ...]:
        """Return the queues to take from now."""
        if not self.paused_queues:
            return self.queues
        return tuple(queue for queue in self.queues if queue not in self.paused_queues)

    def conclude(self, job: Job, settlement: Settlement) -> bool:
        """Say how a job ended; False if the other thread has said so before: the first one counts."""
        with self._concluding:
            if job.settlement is not None:
                return False
            job.settlement = settlement
            return True

    def remove(self, job: Job) -> None:
        """Take a job off: it is settled, or lost. Once, whichever threads do."""
        if self.jobs.get(job.id) is not job:
            return  # a later run of the same task has its place
        taken = self.jobs.pop(job.id, None)
        if taken is not job:  # the other thread was quicker
            if taken is not None:
                self.jobs.setdefault(job.id, taken)  # and the later run has come meanwhile
            return
        if self.progress:
            self.progress.pop(job.id, None)  # or the next run of the same task would be said to have come so far
        if self.awaited:
            told = self.awaited.pop(job.id, None)
            if told is not None:
                told(job)
        if not self.jobs:
            self.on_empty()

    # --------------------------------------------------------------------------------------------------- the work loop

    def measure(self, job: Job, ended_at: float) -> None:
        """Add a run to the tallies."""
        delivery = job.delivery
        key = (delivery.queue, delivery.task)
        tally = self.tallies.get(key)
        if tally is None:
            tally = self.tallies[key] = Tally()
        run_ms = (ended_at - job.started_at) * 1000.0
        tally.count += 1
        tally.run_ms += run_ms
        if delivery.started_at_ms > delivery.enqueued_at_ms:
            tally.wait_ms += delivery.started_at_ms - delivery.enqueued_at_ms
        bucket = int(run_ms).bit_length()
        tally.buckets[bucket] = tally.buckets.get(bucket, 0) + 1

    def wants(self, kind: str) -> bool:
        """Say whether to keep an event of this kind, and count it. Ask `watched` first.

        At most 2 000 a second of tasks that go well and 3 000 others are kept; how many were not is told.
        """
        if self._new_second:
            self._new_second = False
            self._routine = self._others = 0
            if self._skipped or self._skipped_routine:
                skipped = {"skipped": self._skipped + self._skipped_routine, "routine": self._skipped_routine}
                self._skipped = self._skipped_routine = 0
                self.note("events.sampled", None, skipped)
        # Asked three times by every task at full speed: no look at a clock, and no detail made, for what is not kept.
        if kind in ROUTINE:
            if self._routine < ROUTINE_PER_SECOND:
                self._routine += 1
                return True
            self._skipped_routine += 1
        elif self._others < OTHERS_PER_SECOND:
            self._others += 1
            return True
        else:
            self._skipped += 1
        return False

    def note(
        self, kind: str, job: Job | None, detail: Mapping[str, Any] = NO_DETAIL, *, expired: Expired | None = None
    ) -> None:
        """Keep an event for the watchers: of a job, of a task that came too late, or of neither. Ask `wants` first."""
        self._sequence += 1
        at_ms = self.now_ms()
        about = expired if job is None else job.delivery
        if about is None:
            event = Event(kind=kind, at_ms=at_ms, worker=self.worker_id, seq=self._sequence, detail=detail)
        else:
            event = Event(
                kind=kind,
                at_ms=at_ms,
                worker=self.worker_id,
                seq=self._sequence,
                task_id=about.id,
                task=about.task,
                queue=about.queue,
                attempt=about.attempt,
                detail=detail,
            )
        self.events.append(event)

    # ------------------------------------------------------------------------------------------------ the vitals thread

    def take_events(self, most: int = 1_000) -> list[Event]:
        now = time.monotonic()
        if now - self._second_began >= 1.0:
            self._second_began, self._new_second = now, True
        events: list[Event] = []
        while self.events and len(events) < most:
            events.append(self.events.popleft())
        return events

    def take_progress(self, held: Collection[str]) -> dict[str, bytes]:
        """Return and forget the progress of these tasks: at most 64 KiB, though always one value.

        What has waited longest comes first. A newer value of a task keeps the place of the one that it replaces, so
        none that is told all the time keeps the others out.
        """
        taken: dict[str, bytes] = {}
        used = 0
        for task_id in list(self.progress):
            if task_id not in held:
                if task_id not in self.jobs:  # told in the moment in which it was taken off
                    self.progress.pop(task_id, None)
                continue
            packed = self.progress.get(task_id, b"")
            if taken and used + len(packed) > PROGRESS_BYTES:
                break
            newest = self.progress.pop(task_id, None)
            if newest is not None:
                taken[task_id] = newest
                used += len(newest)
        return taken

    def take_measured(self) -> list[Measured]:
        """Return and forget the tallies.

        A run that ends in the very moment of the swap may be added to the old tally after it was read: durations are
        statistics, outcomes are counted by the broker.
        """
        tallies, self.tallies = self.tallies, {}
        return [
            Measured(
                queue=queue,
                task=task,
                count=tally.count,
                wait_ms=round(tally.wait_ms),
                run_ms=round(tally.run_ms),
                buckets=dict(tally.buckets),
            )
            for (queue, task), tally in list(tallies.items())
        ]

    def apply_pauses(self, pauses: Sequence[Pause], *, worker: str, name: str) -> None:
        """Take over which queues and task names, and whether this worker, are paused now.

        Called again with every beat, because a pause may end by the clock.
        """
        now_ms = self.now_ms()
        standing = [pause for pause in pauses if pause.until_ms is None or pause.until_ms > now_ms]
        self.paused_queues = frozenset(
            pause.target for pause in standing if pause.kind == "queue" and pause.target in self.queues
        )
        self.paused_tasks = frozenset(pause.target for pause in standing if pause.kind == "task")
        self.paused_self = any(pause.kind == "worker" and pause.target in (worker, name) for pause in standing)

    @property
    def flush_every_s(self) -> float:
        """How often events are sent: the larger the fleet, the less often each worker does."""
        return max(FLUSH_EVERY_S, min(LONGEST_FLUSH_S, self.fleet / BATCHES_PER_S))

    def closed_to(self, job: Job) -> bool:
        """Say whether a job must not begin any more: it waits for a thread or child, and something was paused since."""
        if self.stopping or self.draining or self.paused_self:
            return True
        return job.delivery.queue in self.paused_queues or job.delivery.task in self.paused_tasks


def _nothing() -> None:
    return None
