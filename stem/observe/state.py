"""What is known of a fleet, now: snapshots and events go in, rows come out. A pure reducer: no I/O, no widget, and the
time is given, so that a recording can be replayed through it.

What the broker counts and what its records say (snapshots) is the truth and is polled every second. Events only make
the picture move between two polls and tell what happened; losing them costs detail, never a wrong count.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Final

from stem.contracts import (
    FinalRow,
    ListState,
    MinuteRow,
    Pause,
    PauseKind,
    QueueRow,
    Seen,
    ServerInfo,
    TaskPage,
    superseded,
)
from stem.messages.event import Event
from stem.observe import past
from stem.observe.failures import WINDOW_MS, FailureBook
from stem.observe.longest import Longest
from stem.observe.rates import Meter, MinuteBook
from stem.observe.rows import (
    GONE,
    MESSAGE_CHARS,
    EventLine,
    QueueLine,
    TaskLine,
    WorkerLine,
    event_line,
    pause_text,
    progress_text,
    shared,
    worker_news,
)
from stem.observe.snapshot import Snapshot
from stem.text import clean

FINISHED_KEPT: Final = 50_000
EVENTS_KEPT: Final = 2_000
_NUMBERED: Final = 20_000
_AT_A_TIME: Final = 100
"""Workers in a step of a snapshot."""
QUIET: Final = frozenset({"task.received", "task.started", "task.progress", "task.succeeded"})
"""What a healthy fleet does all the time."""
WAITING: Final[tuple[ListState, ...]] = ("queued", "scheduled", "retrying", "held", "dead")
FINAL: Final = frozenset({"succeeded", "failed", "revoked", "expired"})
OUTCOMES: Final = ("succeeded", "failed", "retried", "revoked", "expired")
_RANK: Final = {"queued": 0, "scheduled": 0, "held": 0, "running": 1, "retrying": 2}
_LATE_MS: Final = 2_000
_AFTER: Final = {
    "task.received": "queued",
    "task.started": "running",
    "task.succeeded": "succeeded",
    "task.failed": "failed",
    "task.retried": "retrying",
    "task.revoked": "revoked",
    "task.expired": "expired",
    "task.handed_back": "queued",
}


class ClusterState:
    """The picture. Owned by one event loop; every change raises `version`.

    Attributes:
        tasks: by id, all that are known, those that changed last at the end; of them `running` runs, `open` is not
            final or a dead letter, and `finished` are the last finished ones, at most 50 000. `longest` orders
            those that run.
        events: the last ones of any kind; `news` those that are not `QUIET`, which at thousands a second would be gone
            from `events` before anybody saw them.
        totals: of a page's state where the broker counts it; `cut` names the states whose page was not the whole.
        offset_ms: the broker's clock minus this machine's.
        refused: parts that the server would not answer, and why; `events_error` why there are no events.
        gaps: how often events were missed here; `gap_ms` when they last were, or a worker told only a part of them:
            counts of failures are a lower bound for five minutes from then. `missed` is how many they were in that
            time, by the workers' own numbers, as far as those tell. Of what goes well busy workers tell a part all the
            time, at last at `sampled_ms`: that is no gap.
    """

    def __init__(self, diagnose: Callable[[Seen], str]) -> None:
        self._diagnose = diagnose
        self.version = 0
        self.queues: dict[str, QueueLine] = {}
        self.workers: dict[str, WorkerLine] = {}
        self.tasks: OrderedDict[str, TaskLine] = OrderedDict()
        self.running: dict[str, TaskLine] = {}
        self.longest = Longest(self.running)
        self.open: dict[str, TaskLine] = {}
        # Not a dict: there, finding the first entry walks over all that were removed before it.
        self.finished: OrderedDict[str, TaskLine] = OrderedDict()
        self.totals: dict[str, int] = {}
        self.cut: set[str] = set()
        self.pauses: list[Pause] = []
        self.info: ServerInfo | None = None
        self.refused: Mapping[str, str] = {}
        self.events_error = ""
        self.minutes = MinuteBook()
        self.failures = FailureBook()
        self.events: deque[EventLine] = deque(maxlen=EVENTS_KEPT)
        self.news: deque[EventLine] = deque(maxlen=EVENTS_KEPT)
        self.offset_ms = 0
        self.gaps = self.gap_ms = self.missed = self.sampled_ms = 0
        self.event_count = Meter()
        self.came = Meter()
        self.went: dict[str, Meter] = {name: Meter() for name in OUTCOMES}
        self._events_total = 0
        self._numbers: dict[str, int] = {}
        self._seen_workers = False
        self._known_pauses: set[tuple[PauseKind, str]] | None = None
        self._named: dict[str, list[str]] = {}
        self._polls = 0
        self._turns = 0

    # ------------------------------------------------------------------------------------------------------ snapshots

    def apply(self, snapshot: Snapshot, at_s: float) -> None:
        """Take a snapshot; `at_s` is monotonic seconds, for the rates."""
        for _ in self.applying(snapshot, at_s):
            pass

    def applying(self, snapshot: Snapshot, at_s: float) -> Iterator[None]:
        """Take a snapshot in steps of a few milliseconds.

        Between two of them the picture may be drawn, and events taken: each row is as the snapshot says, or as before.
        """
        if snapshot.workers:
            self._set_clock(snapshot.workers[0].at_ms + snapshot.workers[0].age_ms - snapshot.asked_ms)
        elif snapshot.info is not None:
            self._set_clock(snapshot.info.now_ms - snapshot.asked_ms)
        as_of_ms = snapshot.asked_ms + self.offset_ms
        if snapshot.info is not None:
            self.info = snapshot.info
        self.refused = snapshot.refusals(self.refused)
        if not self._polls:
            past.seed_rates(self, snapshot, as_of_ms, at_s)
        if snapshot.pauses is not None:
            self._apply_pauses(snapshot.pauses, as_of_ms)
        if snapshot.minutes is not None:
            self._apply_minutes(snapshot.minutes, as_of_ms, at_s)
        if snapshot.queues is not None:
            self._apply_queues(snapshot.queues, at_s)
        if snapshot.workers is not None:
            yield from self._apply_workers(snapshot.workers, as_of_ms, at_s)
        for state, page in snapshot.pages.items():
            self._apply_page(state, page, as_of_ms)
        if snapshot.history is not None:
            # The pages were read after it: a replayed task that they list lives again, whatever its last end was.
            alive = {each.id for state, page in snapshot.pages.items() if state not in FINAL for each in page.items}
            self._apply_history(snapshot.history, alive)
        if not self._polls:
            past.tell(self, snapshot, as_of_ms)
        self.event_count.read(self._events_total, at_s)
        self._polls += 1
        if self._polls % 20 == 0:
            # Events told of these and no poll has met them since: whatever became of them, it is not this any more.
            self._forget(row for row in self.open.values() if row.changed_ms < as_of_ms - 60_000 and row.from_event)
        self.version += 1

    def _set_clock(self, offset_ms: int) -> None:
        """Take a measured offset. Each is too great by the time the answer took: the least stays, and grows slowly."""
        if self._polls and abs(offset_ms - self.offset_ms) < 1_000:
            offset_ms = min(offset_ms, self.offset_ms + 1)
        self.offset_ms = offset_ms

    def _apply_queues(self, rows: Sequence[QueueRow], at_s: float) -> None:
        for row in rows:
            line = self.queue_line(row.name)
            line.update(row)
            line.came.read(row.enqueued_total, at_s)
            line.went.read(self.minutes.total("succeeded", row.name) + self.minutes.total("failed", row.name), at_s)
        for name in self.queues.keys() - {row.name for row in rows}:
            del self.queues[name]
        self.came.read(sum(row.enqueued_total for row in rows), at_s)

    def _apply_minutes(self, rows: Sequence[MinuteRow], as_of_ms: int, at_s: float) -> None:
        self.minutes.update(rows, as_of_ms)
        for name, meter in self.went.items():
            meter.read(self.minutes.total(name), at_s)

    def _apply_workers(self, seen: Sequence[Seen], as_of_ms: int, at_s: float) -> Iterator[None]:
        paused = {pause.target for pause in self.pauses if pause.kind == "worker"}
        again = superseded(seen)
        held: dict[str, list[TaskLine]] = {}
        for row in self.running.values():
            held.setdefault(row.owner, []).append(row)
        for number, each in enumerate(sorted(seen, key=lambda one: one.at_ms), 1):
            if number % _AT_A_TIME == 0:
                yield
            beat = each.heartbeat
            line = self.workers.get(beat.id) or WorkerLine(beat.id, clean(beat.name))
            self.workers[beat.id], before = line, line.diagnosis
            fresh = each.at_ms != line.at_ms
            if fresh:
                line.update(each, at_s - each.age_ms / 1000)
            line.diagnosis = self._diagnosis(each)
            line.paused_here = beat.id in paused or beat.name in paused
            line.superseded = beat.id in again
            if self._seen_workers and line.diagnosis != before:
                self._worker_changed(line, before, as_of_ms)
            if fresh and line.diagnosis not in ("lost", "stopped"):
                self._apply_running(each, line, held.get(line.key, ()))
        for key in self.workers.keys() - {each.heartbeat.id for each in seen}:
            del self.workers[key]
            self._numbers.pop(key, None)
        self._forget(row for row in self.running.values() if row.owner and row.owner not in self.workers)
        self._named = {}
        for each in seen:
            self._named.setdefault(each.heartbeat.name, []).append(each.heartbeat.id)
        self._seen_workers = True

    def _diagnosis(self, seen: Seen) -> str:
        diagnosis = self._diagnose(seen)
        if diagnosis in ("healthy", "busy") and seen.age_ms > 2 * seen.heartbeat.interval_ms:
            return "late"
        return diagnosis

    def _apply_running(self, seen: Seen, line: WorkerLine, held: Iterable[TaskLine]) -> None:
        """Bring the tasks of one worker in line with its heartbeat; what events said after it stays."""
        for task in seen.heartbeat.running:
            row = self._line(task.id)
            newer = row.changed_ms > seen.at_ms or row.token > task.token or row.outlived(task)
            if not newer:
                row.runs(task, line.key, line.name, seen.at_ms)
                self._index(row)
            elif row.state == "running" and row.token in (0, task.token):
                row.progress = progress_text(task.progress) or row.progress
                row.token, row.started_ms = task.token, task.started_at_ms
                self.longest.put(row)
        if line.whole:
            self._forget(
                row for row in held if row.state == "running" and row.owner == line.key and row.changed_ms < seen.at_ms
            )

    def _apply_page(self, state: ListState, page: TaskPage, as_of_ms: int) -> None:
        listed = set()
        for status in page.items:
            listed.add(status.id)
            row = self._line(status.id)
            if row.from_event and row.changed_ms > as_of_ms:
                continue
            row.status(status, state)
            row.owner, row.worker = self.owner(status.worker or "")
            self._index(row)
        if page.total is not None:
            self.totals[state] = page.total
        whole = page.next is None
        (self.cut.discard if whole else self.cut.add)(state)
        if state in WAITING or whole:
            self._forget(
                row
                for row in (self.running if state == "running" else self.open).values()
                if row.state == state and row.key not in listed and row.changed_ms <= as_of_ms
            )

    def _apply_history(self, rows: Sequence[FinalRow], alive: Collection[str]) -> None:
        for final in reversed(rows):
            row = self.tasks.get(final.id)
            ended = row is None or (row.state != "dead" and row.changed_ms <= final.finished_at_ms)
            if ended and final.id not in alive:
                row = self._line(final.id)
                row.final(final)
                row.owner, row.worker = self.owner(final.worker)
                self._index(row)
            if final.state.value == "failed":
                self.failures.add(
                    task=clean(final.task),
                    error=clean(final.error_type) or "failed",
                    task_id=clean(final.id, 64),
                    attempt=final.attempt,
                    at_ms=final.finished_at_ms,
                    queue=clean(final.queue),
                    worker=self.owner(final.worker)[1],
                    again=True,
                )

    def _apply_pauses(self, pauses: Sequence[Pause], as_of_ms: int) -> None:
        known = {(pause.kind, pause.target) for pause in pauses}
        if self._known_pauses is not None:
            for pause in pauses:
                if (pause.kind, pause.target) not in self._known_pauses:
                    at_ms = pause.at_ms or as_of_ms
                    self._told(f"{pause.kind}.paused", at_ms, pause.kind, pause.target, pause_text(pause))
            for kind, target in sorted(self._known_pauses - known):
                self._told(f"{kind}.resumed", as_of_ms, kind, target, "")
        self._known_pauses = known
        self.pauses = list(pauses)

    # --------------------------------------------------------------------------------------------------------- events

    def apply_events(self, events: Iterable[Event]) -> None:
        """Take a batch of events, in whatever order they came."""
        for event in events:
            self._events_total += 1
            number, kind = self._numbers.get(event.worker), event.kind
            if number is not None and event.seq > number + 1:
                self._miss(event.seq - number - 1, event.at_ms)
            if number is None or event.seq > number:
                if len(self._numbers) > _NUMBERED:
                    self._numbers.clear()
                self._numbers[event.worker] = event.seq
            if kind == "events.sampled":
                self._sampled(event)
            elif kind.startswith("worker."):
                self._told_by_worker(event)
                continue
            owner, worker = self.owner(event.worker)
            line = event_line(event, self._events_total, worker, owner)
            self.tell(line)
            if event.task_id:
                self._apply_task_event(event, line, owner)
        self.version += 1

    def _sampled(self, event: Event) -> None:
        """A busy worker told a part of what went well, as it does all the time; if not of that only, there is a gap."""
        skipped, routine = (n if isinstance(n := event.detail.get(k), int) else 0 for k in ("skipped", "routine"))
        self.sampled_ms = max(self.sampled_ms, event.at_ms)
        if skipped > routine or not routine:
            self._miss(skipped - routine, event.at_ms)

    def _miss(self, count: int, at_ms: int) -> None:
        self.missed = max(0, count) + (self.missed if self.incomplete(at_ms) else 0)
        self.gap_ms = max(self.gap_ms, at_ms)

    def _apply_task_event(self, event: Event, line: EventLine, owner: str) -> None:
        if event.kind in ("task.failed", "task.retried"):
            self._count_failure(event)
        state = _AFTER.get(event.kind)
        if state is None:
            row = self.tasks.get(event.task_id)
            if event.kind == "task.progress" and row is not None and row.state == "running":
                row.progress = progress_text(event.detail.get("progress"))
            return
        row = self.tasks.get(event.task_id)
        if row is None:
            row = self.tasks[event.task_id] = TaskLine(event.task_id, line.task_id)
        elif row.changed_ms and not self._moves(row, event, state):
            return
        row.task, row.queue = line.task or row.task, line.queue or row.queue
        # What waits for its next attempt has failed once more, as its record says it too.
        row.attempt = event.attempt + (state == "retrying")
        row.state, row.changed_ms, row.from_event = state, event.at_ms, True
        if event.worker:
            row.owner, row.worker = owner, line.worker
        if state == "running":
            row.started_ms, row.progress = event.at_ms, ""
        elif state == "retrying":
            next_at_ms = event.detail.get("next_at_ms")
            row.due_ms = next_at_ms if isinstance(next_at_ms, int) else 0
        if state in ("failed", "retrying"):
            row.error = shared(event.detail.get("error") or "")
            row.message = clean(event.detail.get("message") or "", MESSAGE_CHARS)
        if state in FINAL:
            row.finished_ms = event.at_ms
        self._index(row)

    @staticmethod
    def _moves(row: TaskLine, event: Event, state: str) -> bool:
        """Say whether an event is news. Workers' clocks differ, so within two seconds what comes later in a task's life
        wins, whatever the times say; a late event moves no task backwards."""
        tried = row.attempt - (row.state == "retrying")
        before, after = (tried, _RANK.get(row.state, 3)), (event.attempt, _RANK.get(state, 3))
        if event.at_ms > row.changed_ms + _LATE_MS:
            return True
        if event.kind == "task.handed_back" and row.state == "running":
            return event.at_ms >= row.changed_ms
        return after > before and event.at_ms >= row.changed_ms - _LATE_MS

    def _count_failure(self, event: Event) -> None:
        error, message = event.detail.get("error"), event.detail.get("message")
        self.failures.add(
            task=clean(event.task),
            error=clean(error) if error else "failed",
            message=clean(message, MESSAGE_CHARS) if message else "",
            task_id=clean(event.task_id, 64),
            attempt=event.attempt,
            at_ms=event.at_ms,
            queue=clean(event.queue),
            worker=self.owner(event.worker)[1],
        )

    def incomplete(self, now_ms: int) -> bool:
        """Say whether events of the last five minutes are missing here."""
        return now_ms - self.gap_ms < WINDOW_MS

    def gap(self, now_ms: int) -> None:
        """Note that events were missed; the next snapshot and history make the picture right again."""
        self._miss(0, now_ms)
        self.gaps += 1
        self._told("events.missed", now_ms, "", "", "counts are right all the same: they are the broker's own")
        self.version += 1

    # ---------------------------------------------------------------------------------------------------------- tail

    def _told(self, kind: str, at_ms: int, what: str, target: str, text: str, owner: str = "") -> None:
        self._events_total += 1
        name = clean(target)
        self.tell(
            EventLine(
                key=str(self._events_total),
                at_ms=at_ms,
                kind=kind,
                queue=name if what == "queue" else "",
                task=name if what == "task" else "",
                worker=name if what == "worker" else "",
                text=text,
                owner=owner,
            )
        )

    def _told_by_worker(self, event: Event) -> None:
        """Add a worker's own word of its coming or going, unless a snapshot has told of it already."""
        if self._has_told(event.kind, event.worker, event.at_ms, of=200):
            return
        line = self.workers.get(event.worker)
        name = clean(event.worker) if line is None else line.name
        self.tell(event_line(event, self._events_total, name, event.worker))

    def _has_told(self, kind: str, worker_id: str, at_ms: int, *, of: int) -> bool:
        # By the id: two workers of one host that are lost together have its name both.
        lines = (each for each in islice(reversed(self.news), of) if each.kind == kind and each.owner == worker_id)
        return any(abs(each.at_ms - at_ms) < 10_000 for each in lines)

    def tell(self, line: EventLine) -> None:
        """Add a line to the tail."""
        self.events.append(line)
        if line.kind not in QUIET:
            self.news.append(line)

    def _worker_changed(self, line: WorkerLine, before: str, as_of_ms: int) -> None:
        kind, text = worker_news(line, before, as_of_ms)
        at_ms = line.started_ms or as_of_ms if kind == "worker.ready" else as_of_ms
        if not kind or self._has_told(kind, line.key, at_ms, of=50):
            return
        self._told(kind, at_ms, "worker", line.name, text, line.key)

    # -------------------------------------------------------------------------------------------------------- helpers

    def _line(self, task_id: str) -> TaskLine:
        row = self.tasks.get(task_id)
        if row is None:
            row = self.tasks[task_id] = TaskLine(task_id, clean(task_id, 64))
        return row

    def queue_line(self, name: str) -> QueueLine:
        line = self.queues.get(name)
        if line is None:
            line = self.queues[name] = QueueLine(name, clean(name))
        return line

    def owner(self, worker: str) -> tuple[str, str]:
        """Return the key and the shown name of the worker that a message names, by id or by name."""
        line = self.workers.get(worker)
        if line is not None:
            return line.key, line.name
        named = self._named.get(worker, ())
        return (named[0] if len(named) == 1 else worker), shared(worker)

    def _index(self, row: TaskLine) -> None:
        """Put a row where its state belongs; over the cap the one that finished first is forgotten."""
        if row.state == "running":
            self.running[row.key] = row
            self.longest.put(row)
        else:
            self.running.pop(row.key, None)
        self._turns += 1
        row.turn = self._turns
        self.tasks.move_to_end(row.key)
        if row.state not in FINAL:
            self.open[row.key] = row
            self.finished.pop(row.key, None)
            return
        self.open.pop(row.key, None)
        self.finished[row.key] = row
        self.finished.move_to_end(row.key)
        while len(self.finished) > FINISHED_KEPT:
            oldest, forgotten = self.finished.popitem(last=False)
            forgotten.turn = GONE
            self.tasks.pop(oldest, None)

    def _forget(self, rows: Iterable[TaskLine]) -> None:
        for row in list(rows):
            row.turn = GONE
            for where in (self.tasks, self.running, self.open, self.finished):
                where.pop(row.key, None)
