"""Outcomes wait here until the next exchange takes them to the broker, and its answers come back here.

Completions gather while the previous round trip is under way and leave together (group commit). What was sent and not
answered is sent again with the same tokens: the broker answers `already` where it had been applied.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final

from stem.contracts import Outcome, ResultBackend, SettleAnswer, Settlement
from stem.errors import DecodeError
from stem.messages.codec import unpack
from stem.messages.status import ErrorInfo, TaskState, TaskStatus
from stem.signals import StemSignals, TaskFailed, TaskRetry, TaskRevoked, TaskSucceeded
from stem.text import clean
from stem.worker.board import Board
from stem.worker.job import Job

log = logging.getLogger("stem.worker")

MAX_BATCH: Final = 500
BATCH_BYTES: Final = 1024 * 1024
"""Of results and errors on their way at a time, though always one outcome: over a slow link they have to arrive before
their answer is given up."""
COPY_TRIES: Final = 4
COPIES_WAITING: Final = 10_000
COPIES_BYTES: Final = 64 * 1024 * 1024
"""Of results and errors that wait for the result backend: while it is away, ten thousand large ones are too many."""

COUNTED: Final = {
    Outcome.SUCCEEDED: "succeeded",
    Outcome.DEAD: "failed",
    Outcome.RETRY: "retried",
    Outcome.GIVE_BACK: "handed_back",
    Outcome.CRASHED: "handed_back",
    Outcome.REVOKED: "revoked",
}
EVENT: Final = {
    Outcome.SUCCEEDED: "task.succeeded",
    Outcome.DEAD: "task.failed",
    Outcome.RETRY: "task.retried",
    Outcome.GIVE_BACK: "task.handed_back",
    Outcome.CRASHED: "task.handed_back",
    Outcome.REVOKED: "task.revoked",
}
FINAL: Final = {
    Outcome.SUCCEEDED: TaskState.SUCCEEDED,
    Outcome.DEAD: TaskState.FAILED,
    Outcome.REVOKED: TaskState.REVOKED,
}


class Finisher:
    """The waiting outcomes of one worker, and how much of them is on its way. Belongs to the work loop."""

    def __init__(self, board: Board, backend: ResultBackend | None, *, worker_id: str) -> None:
        self._board = board
        self._worker_id = worker_id
        self._waiting: deque[Job] = deque()
        self._away = 0
        self._away_bytes = 0
        self.copier = Copier(backend) if backend is not None else None

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, job: Job) -> None:
        """Take a job whose `settlement` says how it ended."""
        self._waiting.append(job)

    @property
    def ready(self) -> int:
        """Return how many wait, or 0 while what is on its way leaves no room for the oldest."""
        waiting = self._waiting
        if self._away and waiting and self._away_bytes + size_of(waiting[0]) > BATCH_BYTES:
            return 0
        return len(waiting)

    def take(self) -> list[Job]:
        """Return what waits, oldest first: at most 500, and what has room beside what is on its way.

        Each call is followed by `answered` or `restore` with the same jobs.
        """
        waiting = self._waiting
        jobs: list[Job] = []
        used = self._away_bytes
        while waiting and len(jobs) < MAX_BATCH:
            size = size_of(waiting[0])
            if used + size > BATCH_BYTES and (jobs or self._away):
                break
            used += size
            jobs.append(waiting.popleft())
        self._away += len(jobs)
        self._away_bytes = used
        return jobs

    def restore(self, jobs: Sequence[Job]) -> None:
        """Put back what got no answer; it leaves again first."""
        self._back(jobs)
        self._waiting.extendleft(reversed(jobs))

    def answered(self, jobs: Sequence[Job], answers: Sequence[SettleAnswer]) -> None:
        """Take note of what the broker made of these outcomes."""
        self._back(jobs)
        board = self._board
        for job, answer in zip(jobs, answers, strict=True):
            if answer == "lost":
                self._lost(job)
                job.error = None
                board.remove(job)
                continue
            settlement = job.settlement
            assert settlement is not None
            if answer == "buried":
                settlement = _buried(job, settlement)
            elif answer == "revoked":
                settlement = _revoked(job, settlement)
            board.counters[COUNTED[settlement.outcome]] += 1
            # Stated once even when the answer is `already`: the first answer never came, so nobody was told yet.
            if board.watched and board.wants(EVENT[settlement.outcome]):
                self._note(job, settlement)
            if self.copier is not None and settlement.outcome in FINAL:
                self.copier.add(job, settlement, worker=self._worker_id, now_ms=board.now_ms())
            if settlement.outcome is not Outcome.SUCCEEDED:
                self._tell(job, settlement)
            elif StemSignals.task_succeeded.wanted:
                self._signal(job, settlement)
            # Its frames hold what the handler held, and this job: let go, or only a full collection ends the circle.
            job.error = None
            board.remove(job)

    def _back(self, jobs: Sequence[Job]) -> None:
        self._away -= len(jobs)
        self._away_bytes -= sum(map(size_of, jobs))

    def _lost(self, job: Job) -> None:
        """The lease was another's by then: nothing of this run was recorded."""
        job.how = "lost"
        self._board.counters["lost"] += 1
        log.warning(
            "task.late_result_refused",
            extra={
                "task_id": job.id,
                "task": job.delivery.task,
                "queue": job.delivery.queue,
                "attempt": job.delivery.attempt,
                "outcome": "" if job.settlement is None else job.settlement.outcome.value,
                "hint": "the lease had run out, another worker has the task",
            },
        )

    def _note(self, job: Job, settlement: Settlement) -> None:
        detail: dict[str, object] = {}
        if job.began:
            detail["duration_ms"] = round((time.monotonic() - job.started_at) * 1000, 1)
        if settlement.error_type:
            detail["error"] = settlement.error_type
            detail["message"] = clean(job.veil.text(job.error), 200) if job.error is not None else settlement.reason
        if settlement.outcome is Outcome.RETRY:
            detail["next_at_ms"] = self._board.now_ms() + settlement.delay_ms
        if job.how:
            detail["how"] = job.how
        self._board.note(EVENT[settlement.outcome], job, detail)

    def _tell(self, job: Job, settlement: Settlement) -> None:
        """Log and signal an outcome that is not a success."""
        delivery, outcome = job.delivery, settlement.outcome
        level = {Outcome.DEAD: logging.WARNING, Outcome.CRASHED: logging.WARNING}.get(outcome, logging.INFO)
        if log.isEnabledFor(level):
            fields: dict[str, object] = {
                "task_id": delivery.id,
                "task": delivery.task,
                "queue": delivery.queue,
                "attempt": delivery.attempt,
            }
            if job.began:
                fields["duration_ms"] = round((time.monotonic() - job.started_at) * 1000)
            if settlement.error_type:
                message = f": {clean(job.veil.text(job.error), 300)}" if job.error is not None else ""
                fields["error"] = f"{settlement.error_type}{message}"
            if settlement.reason:
                fields["reason"] = settlement.reason
            if outcome in (Outcome.RETRY, Outcome.GIVE_BACK):
                fields["delay_ms"] = settlement.delay_ms
            log.log(level, EVENT[outcome], extra=fields)
        self._signal(job, settlement)

    def _signal(self, job: Job, settlement: Settlement) -> None:
        common = job.facts
        duration_s = time.monotonic() - job.started_at if job.began else 0.0
        match settlement.outcome:
            case Outcome.SUCCEEDED if StemSignals.task_succeeded.wanted:
                StemSignals.task_succeeded.emit_nowait(
                    TaskSucceeded(**common, result=job.result, duration_s=duration_s), job.context
                )
            case Outcome.DEAD if StemSignals.task_failed.wanted:
                StemSignals.task_failed.emit_nowait(
                    TaskFailed(**common, error=job.error, reason=settlement.reason, duration_s=duration_s), job.context
                )
            case Outcome.RETRY if StemSignals.task_retry.wanted:
                at = datetime.fromtimestamp(self._board.now_ms() / 1000, UTC)
                StemSignals.task_retry.emit_nowait(
                    TaskRetry(
                        **common,
                        next_retry_at=at + timedelta(milliseconds=settlement.delay_ms),
                        delay_s=settlement.delay_ms / 1000,
                        error=job.error,
                    ),
                    job.context,
                )
            case Outcome.REVOKED if StemSignals.task_revoked.wanted:
                StemSignals.task_revoked.emit_nowait(
                    TaskRevoked(**common, how=job.how, reason=settlement.reason), job.context
                )
            case _:
                pass


def size_of(job: Job) -> int:
    """Return the bytes of how it ended that its size depends on; 0 while it has not."""
    settlement = job.settlement
    return 0 if settlement is None else len(settlement.result) + len(settlement.error)


class Copier:
    """Copies final statuses to a result backend of its own, after the broker has recorded them.

    The broker's record is the truth; a copy that cannot be stored within a few attempts is given up and logged.
    """

    def __init__(self, backend: ResultBackend) -> None:
        self._backend = backend
        self._queue: asyncio.Queue[tuple[TaskStatus, int, int]] = asyncio.Queue()
        self._waiting = 0
        self._waiting_bytes = 0
        self._dropped = 0

    def add(self, job: Job, settlement: Settlement, *, worker: str, now_ms: int) -> None:
        size = size_of(job)
        if self._waiting and (self._waiting >= COPIES_WAITING or self._waiting_bytes + size > COPIES_BYTES):
            self._dropped += 1
            if self._dropped == 1:
                log.error("results.dropped", extra={"hint": "the result backend does not keep up; the broker has them"})
            return
        self._waiting += 1
        self._waiting_bytes += size
        self._queue.put_nowait((_status(job, settlement, worker, now_ms), settlement.ttl_ms, size))

    async def run(self) -> None:
        while True:
            status, ttl_ms, size = await self._queue.get()
            stored = False
            try:
                stored = await self._store(status, ttl_ms)
            finally:
                self._waiting -= 1
                self._waiting_bytes -= size
                self._queue.task_done()
            if stored and self._dropped and not self._waiting:  # it has caught up: the next outage is told of again
                log.warning("results.copied_again", extra={"dropped": self._dropped})
                self._dropped = 0

    async def flush(self, timeout_s: float) -> bool:
        """Wait until everything is stored; False when time ran out."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._queue.join()
        except TimeoutError:
            log.error("results.left", extra={"count": self._waiting, "hint": "not copied; the broker has them"})
            return False
        return True

    async def _store(self, status: TaskStatus, ttl_ms: int) -> bool:
        for attempt in range(COPY_TRIES):
            try:
                await self._backend.store(status, ttl_ms=ttl_ms)
                return True
            except Exception as error:  # the backend may be anybody's: nothing it raises may end the worker
                said = f"{type(error).__name__}: {clean(error, 300)}"
            if attempt + 1 < COPY_TRIES:
                await asyncio.sleep(0.1 * 4**attempt)
        log.error("result.not_copied", extra={"task_id": status.id, "error": said})
        return False


def _buried(job: Job, settlement: Settlement) -> Settlement:
    """Return what the broker made of a crash that was one too many."""
    job.delivery.crashes += 1
    job.settlement = replace(settlement, outcome=Outcome.DEAD, reason="poison")
    return job.settlement


def _revoked(job: Job, settlement: Settlement) -> Settlement:
    """Return what the broker made of a task that was to run again, or to be a dead letter, and had been revoked."""
    job.settlement = replace(settlement, outcome=Outcome.REVOKED, reason="")
    return job.settlement


def _status(job: Job, settlement: Settlement, worker: str, now_ms: int) -> TaskStatus:
    delivery = job.delivery
    result, error = None, None
    try:
        result = unpack(settlement.result, what="result") if settlement.result else None
        error = ErrorInfo.decode(settlement.error) if settlement.error else None
    except DecodeError:  # our own bytes; a copy without them is better than none
        log.exception("result.unreadable", extra={"task_id": delivery.id})
    return TaskStatus(
        id=delivery.id,
        task=delivery.task,
        queue=delivery.queue,
        state=FINAL[settlement.outcome],
        priority=delivery.priority,
        attempt=delivery.attempt,
        crashes=delivery.crashes,
        token=delivery.token,
        worker=worker,
        enqueued_at_ms=delivery.enqueued_at_ms or None,
        started_at_ms=delivery.started_at_ms or None,
        finished_at_ms=now_ms,
        result=result,
        error=error,
        reason=settlement.reason,
        meta={} if job.envelope is None else job.envelope.meta,
        progress=job.progress_value,
    )
