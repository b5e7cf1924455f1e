"""The heartbeat: says how the worker is, renews its leases, and learns what has changed. Runs in the vitals thread."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from stem.contracts import Beat, BeatAnswer, Broker, Lease, Measured
from stem.errors import BrokerError, UnknownOutcomeError
from stem.messages.heartbeat import MAX_ROWS, Heartbeat, RunningTask
from stem.signals import StemSignals, WorkerHeartbeat
from stem.worker import host
from stem.worker.board import Board
from stem.worker.identity import Identity
from stem.worker.job import Job
from stem.worker.loops import happens, insist
from stem.worker.outage import Outages

log = logging.getLogger("stem.worker")

SHORTEST_INTERVAL_S: Final = 0.1
MEASURED_KEPT: Final = 2_000


class Beater:
    """Beats every interval, more often while a short lease is held. Belongs to the vitals loop.

    Args:
        lose: called with each job whose lease is gone; `revoked` with each that was revoked.
        behind: called when the broker's epoch is another than the one applied.
        watched: called when somebody begins to watch.
        redacted: by task name, which arguments are to be hidden; told to a broker that does not know this worker.
    """

    def __init__(
        self,
        *,
        broker: Broker,
        board: Board,
        identity: Identity,
        digest: str,
        redacted: Mapping[str, Sequence[str]],
        interval_s: float,
        state: Callable[[], str],
        lose: Callable[[Job], None],
        revoked: Callable[[Job], None],
        behind: Callable[[], None],
        watched: Callable[[], None],
        refresh: Callable[[], None],
        outages: Outages,
        count: Callable[[Sequence[Measured]], None],
    ) -> None:
        self._broker = broker
        self._board = board
        self._identity = identity
        self._digest = digest
        self._redacted = redacted
        self._interval_s = interval_s
        self._state = state
        self._lose = lose
        self._revoked = revoked
        self._behind = behind
        self._watched = watched
        self._refresh = refresh
        self._count = count
        self._poked = asyncio.Event()
        self._cpu = host.CpuMeter()
        self._cpu_percent = 0.0
        self._cpu_at = time.monotonic()
        self._outage = outages.of("heartbeat")
        self._unsent: list[Measured] = []
        self._sending = asyncio.Lock()
        self._last = False
        self._bare = False
        self._heard = False
        self._told = False
        self._started_at_ms = 0
        self.rtt_ms = 0.0
        self.confirmed_at = time.monotonic()

    def poke(self) -> None:
        """Beat soon. On the vitals loop."""
        self._poked.set()

    @property
    def away(self) -> bool:
        """Whether the broker has not confirmed the last heartbeats."""
        return self._outage.on or self.age_s() > 3 * self._interval_s

    def age_s(self) -> float:
        """Return the seconds since the last heartbeat that the broker confirmed."""
        return time.monotonic() - self.confirmed_at

    async def run(self) -> None:
        poked_at = 0.0
        while True:
            if await happens(self._poked, self._due_in()):
                # Whoever pokes without end, a handler that extends its lease in a loop, has no more than these.
                await asyncio.sleep(poked_at + SHORTEST_INTERVAL_S - time.monotonic())
                poked_at = time.monotonic()
            self._poked.clear()
            try:
                await self.beat()
            except BrokerError as error:
                await asyncio.sleep(min(self._outage.failed(error), self._due_in()))

    def _due_in(self) -> float:
        leases = [job.delivery.lease_ms / 1000 for job in self._board.snapshot()]
        # A lease that this interval keeps needs no beat of its own. The work loop pokes when a shorter one comes.
        self._board.shortest_lease_s = shortest_s = min([4 * self._interval_s, *leases])
        return max(SHORTEST_INTERVAL_S, shortest_s / 4)

    async def beat(self, *, last: bool = False) -> None:
        """Send one heartbeat and act on the answer; the `last` one is the goodbye.

        One at a time, and none after the goodbye: one that overtook it would bring the worker back to life.

        Raises:
            BrokerError: it did not arrive, or nobody knows.
        """
        async with self._sending:
            if self._last:
                return
            self._last = last
            if last:
                await insist(lambda: self._beat("stopped"))
            else:
                await self._beat(self._state())

    async def _beat(self, state: str) -> None:
        board = self._board
        jobs = board.snapshot()
        now = time.monotonic()
        renewed = {
            job.id: (
                job,
                Lease(id=job.id, token=job.delivery.token, lease_ms=job.lease_ms(now), queue=job.delivery.queue),
            )
            for job in jobs
        }
        # After a beat that did not arrive, one without: leases matter more, and perhaps it was too much.
        progress = {} if self._bare else board.take_progress(renewed)
        self._bare = True
        new = board.take_measured()
        self._count(new)
        measured = self._unsent + new
        self._unsent = []
        beat = Beat(
            heartbeat=self.heartbeat(state, jobs),
            leases=[lease for _, lease in renewed.values()],
            progress=progress,
            measured=measured,
            redacted={} if self._told else self._redacted,
        )
        sent_at, wall_ms = time.monotonic(), time.time_ns() // 1_000_000
        try:
            async with asyncio.timeout(max(1.0, 1.5 * self._interval_s)):
                answer = await self._broker.presence.beat(beat)
        except (BrokerError, TimeoutError) as error:
            for task_id, packed in progress.items():
                if board.jobs.get(task_id) is renewed[task_id][0]:  # not for the next run of the same task
                    board.progress.setdefault(task_id, packed)
            if isinstance(error, TimeoutError):
                raise UnknownOutcomeError("the heartbeat got no answer in time") from error
            if not isinstance(error, UnknownOutcomeError):  # what may have arrived would be counted twice
                self._unsent = measured[-MEASURED_KEPT:]
            raise
        self._bare = False
        self._outage.over()
        self.confirmed_at = sent_at
        self.rtt_ms = round((time.monotonic() - sent_at) * 1000, 2)
        board.clock_offset_ms = answer.now_ms - wall_ms - round(self.rtt_ms / 2)
        if not self._started_at_ms:  # kept: a clock that is corrected later does not move the start
            self._started_at_ms = self._identity.started_at_ms + board.clock_offset_ms
        self._learn(answer, renewed, sent_at)
        if StemSignals.worker_heartbeat.wanted:
            StemSignals.worker_heartbeat.emit_nowait(
                WorkerHeartbeat(worker=self._identity.id, worker_name=self._identity.name, heartbeat=beat.heartbeat)
            )

    def _learn(self, answer: BeatAnswer, renewed: dict[str, tuple[Job, Lease]], sent_at: float) -> None:
        board = self._board
        if self._heard and not answer.known:
            log.warning(
                "broker.lost_data",
                extra={
                    "hint": "the server does not know this worker any more: it lost its data (emptied, or a restart "
                    "without its file). Tasks of before are gone unless their producers enqueue them again"
                },
            )
        self._heard = True
        self._told = answer.known or not self._told
        lost = set(answer.lost)
        for task_id, (job, lease) in renewed.items():
            if task_id not in lost:
                job.confirmed_at = max(job.confirmed_at, sent_at)
                job.lease_s = lease.lease_ms / 1000
            elif board.jobs.get(task_id) is job:
                self._lose(job)
        for task_id in answer.revoked:
            if task_id in renewed:
                self._revoked(renewed[task_id][0])
        if answer.watched and not board.watched:
            board.watched = True
            self._watched()
        board.watched = answer.watched
        board.fleet = answer.fleet
        self._refresh()
        if answer.epoch != board.epoch:
            self._behind()

    def heartbeat(self, state: str, jobs: list[Job] | None = None) -> Heartbeat:
        """Return what the worker says of itself now."""
        board, identity = self._board, self._identity
        jobs = board.snapshot() if jobs is None else jobs
        now = time.monotonic()
        if now - self._cpu_at >= 1.0:  # beats that follow each other closely would measure noise
            self._cpu_percent, self._cpu_at = self._cpu.percent(), now
        return Heartbeat(
            id=identity.id,
            name=identity.name,
            started_at_ms=self._started_at_ms or identity.started_at_ms + board.clock_offset_ms,
            host=identity.host,
            pid=identity.pid,
            version=identity.version,
            queues=board.queues,
            paused=tuple(sorted(board.paused_queues)),
            digest=self._digest,
            state=state,
            concurrency=board.concurrency,
            in_flight=len(jobs),
            running=tuple(row(job) for job in jobs[:MAX_ROWS]),
            counters=dict(board.counters),
            cpu_percent=self._cpu_percent,
            rss_bytes=host.rss_bytes(),
            loop_age_ms=round(board.loop_age_s() * 1000),
            zombie_threads=board.zombies,
            epoch=board.epoch,
            clock_offset_ms=board.clock_offset_ms,
            rtt_ms=self.rtt_ms,
            interval_ms=round(self._interval_s * 1000),
        )


def row(job: Job) -> RunningTask:
    """Return what heartbeats and `inspect active` say of a job."""
    delivery = job.delivery
    limit_s = None if job.plan is None else job.plan.hard_s or job.plan.soft_s
    return RunningTask(
        id=delivery.id,
        task=delivery.task,
        queue=delivery.queue,
        attempt=delivery.attempt,
        token=delivery.token,
        started_at_ms=delivery.started_at_ms,
        progress=job.progress_value,
        isolation=job.isolation,
        limit_ms=0 if limit_s is None else round(limit_s * 1000),
    )
