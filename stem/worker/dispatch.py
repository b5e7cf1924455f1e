"""From a delivery to its outcome: the one state machine. Nobody else decides how a task ends.

delivery -> readable and known here? -> revoked or stopping meanwhile? -> run -> verdict -> finisher
            no: settle at once          yes: settle at once
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from stem.contracts import Delivery, Outcome, Settlement
from stem.errors import HardTimeLimitExceeded, Retry, SoftTimeLimitExceeded, StemError, WorkerLostError
from stem.signals import StemSignals, TaskPostrun, TaskPrerun, TaskReceived
from stem.task import Signature
from stem.worker import verdict
from stem.worker.board import Board
from stem.worker.executor.aio import AioExecutor
from stem.worker.executor.processes import ProcessExecutor
from stem.worker.executor.threads import ThreadExecutor
from stem.worker.finisher import Finisher
from stem.worker.job import Job, Stop, Unbegun
from stem.worker.limits import Limits
from stem.worker.reading import Reader
from stem.worker.wheel import Wheel
from stem.worker.zombies import Zombies

if TYPE_CHECKING:
    from stem.client import Stem

log = logging.getLogger("stem.worker")

CANCEL_GRACE_S: Final = 5.0
"""How long a cancelled handler may clean up before it is cancelled again, and after that given up."""
COOPERATIVE_GRACE_S: Final = 0.5
"""How long a handler that is revoked with force may look at `is_revoked` before it is stopped."""
SOFT_GRACE_S: Final = 1.0
"""How long a revoked one in a child process may clean up after `SoftTimeLimitExceeded` before the child is ended."""
NO_THREAD_MS: Final = 1_000
"""For so long a task is put off for which no thread could be had."""

_POSTRUN: Final = {Outcome.DEAD: "failed", Outcome.GIVE_BACK: "handed_back"}


class Dispatcher:
    """Starts deliveries and turns their ends into settlements. Belongs to the work loop."""

    def __init__(
        self,
        *,
        board: Board,
        reader: Reader,
        finisher: Finisher,
        threads: ThreadExecutor,
        processes: ProcessExecutor,
        wheel: Wheel,
        worker_id: str,
        worker_name: str,
        client: Callable[[], Stem],
        changed: Callable[[], None],
        look_again: Callable[[], None],
        poke_vitals: Callable[[], None],
        out_of_slots: Callable[[], None],
        owns_process: bool,
        ending: Callable[[], bool],
    ) -> None:
        """Make one.

        Args:
            owns_process: whoever interrupts the process interrupts the worker, and no handler.
            ending: says whether the program around the worker has begun to end.
        """
        self.worker_id = worker_id
        self.worker_name = worker_name
        self._board = board
        self._reader = reader
        self._finisher = finisher
        self._threads = threads
        self._processes = processes
        self._wheel = wheel
        self._limits = Limits(wheel, self.stop)
        self._client = client
        self._changed = changed
        self._look_again = look_again
        self._poke_vitals = poke_vitals
        self._loop = asyncio.get_running_loop()
        self._thread_id = threading.get_ident()
        self._owns_process = owns_process
        self._ending = ending
        self._aio = AioExecutor(self._loop, interruptible=not owns_process)
        self._tasks: set[asyncio.Task[None]] = set()  # the loop holds tasks weakly
        self._zombies = Zombies(board, wheel, threads.size, out_of_slots)

    @property
    def signalling(self) -> bool:
        """Somebody listens for `task_prerun`."""
        return StemSignals.task_prerun.wanted

    @property
    def all_begun(self) -> bool:
        """Every handler that runs on the loop has been called."""
        return self._aio.begun

    # --------------------------------------------------------------------------------------------------------- start

    def begin(self, delivery: Delivery, confirmed_at: float) -> None:
        """Start a delivery, or settle it at once if it cannot run here."""
        board = self._board
        job = Job(delivery, self, confirmed_at=confirmed_at)
        older = board.jobs.get(delivery.id)
        board.jobs[delivery.id] = job
        if older is not None:
            self.lose(older)  # we lost it and got it back, before anybody told us of the loss
        if board.stopping:
            self._settle(job, verdict.hand_back(delivery, reason="worker stops"))
            return
        try:
            job.envelope, job.plan = self._reader.read(delivery)
        except StemError as error:
            settlement = self._reader.refusal(delivery, error)
            # Its frames hold the decoded message, which may be 80 times the size of the body, and this job: a circle
            # that only a full collection would free, long after the job.
            job.error = verdict.without_frames(error)
            self._settle(job, settlement)
            return
        if board.watched and board.wants("task.received"):
            board.note("task.received", job)
        if StemSignals.task_received.wanted:
            StemSignals.task_received.emit_nowait(TaskReceived(**job.facts), job.context or job.make_context())
        if job.lease_s < board.shortest_lease_s:
            board.shortest_lease_s = job.lease_s
            self._poke_vitals()
        board.slots_used += 1
        board.counters["started"] += 1
        job.holds_slot = True
        plan = job.plan
        assert plan is not None
        if board.watched and board.wants("task.started"):
            board.note("task.started", job)
        if plan.isolated:
            self._begin_elsewhere(job, self._processes)
            return  # its time runs from its real start
        if plan.threaded:
            self._begin_elsewhere(job, self._threads)
        else:
            self._aio.start(job)
        self._limits.arm(job, plan)

    def begun(self, job: Job) -> None:
        """Its child process is given it now."""
        assert job.plan is not None
        self._limits.arm(job, job.plan)

    def _begin_elsewhere(self, job: Job, pool: ThreadExecutor | ProcessExecutor) -> None:
        if not self.signalling:
            pool.start(job)
            return

        async def prerun_then_start() -> None:
            (pool.start if await self.prerun(job) else self.dropped)(job)

        task = self._loop.create_task(prerun_then_start(), name=f"{job.id} prerun")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def prerun(self, job: Job) -> bool:
        """Call who listens; False if the task must not begin any more: it was revoked, paused or given up meanwhile."""
        assert job.envelope is not None
        event = TaskPrerun(**job.facts, args=job.envelope.args)
        await StemSignals.task_prerun.emit(event, job.context or job.make_context())
        if job.revoke_asked:
            job.stop = job.stop or Stop.REVOKED
        return job.stop is None and job.running and not self._board.closed_to(job)

    # ----------------------------------------------------------------------------------------------------------- end

    def succeeded(self, job: Job, result: Any) -> None:
        """The handler has returned."""
        ended_at = time.monotonic()
        self._free(job)
        if job.abandoned:
            self._too_late(job)
            return
        plan, delivery = job.plan, job.delivery
        assert plan is not None
        self._board.measure(job, ended_at)
        try:
            match job.stop:
                case None | Stop.SOFT_LIMIT | Stop.HAND_BACK | Stop.UNRENEWED:
                    job.how = "finished"
                    if job.terminate or job.saw_revoke:
                        settlement = verdict.revoked(delivery, plan.ttl_ms)
                    else:
                        job.result = result
                        settlement = verdict.success(delivery, plan, result)
                case Stop.HARD_LIMIT:
                    settlement = verdict.failure(delivery, plan, self._timed_out(job))
                case Stop.REVOKED:
                    settlement = verdict.revoked(delivery, plan.ttl_ms)
                case Stop.LOST:
                    self._forget(job)
                    return
        except Exception as broken:
            settlement = self._unjudged(job, broken)
        self._settle(job, settlement)

    def failed(self, job: Job, error: BaseException) -> None:
        """The handler has raised, or was cancelled."""
        ended_at = time.monotonic()
        self._free(job)
        if job.abandoned:
            self._too_late(job)
            return
        if not job.began and (job.threaded or isinstance(error, Unbegun)):  # interrupted on its way to the handler
            self._end_unbegun(job)
            return
        plan, delivery = job.plan, job.delivery
        assert plan is not None
        job.error = error
        if job.began:
            self._board.measure(job, ended_at)
        try:
            match job.stop:
                case Stop.REVOKED:
                    job.how = "soft" if isinstance(error, SoftTimeLimitExceeded) else "cancelled"
                    settlement = verdict.revoked(delivery, plan.ttl_ms)
                case Stop.HAND_BACK:
                    job.how = "handed_back"
                    settlement = verdict.hand_back(delivery, reason="worker stops")
                case Stop.UNRENEWED:
                    job.how = "handed_back"
                    settlement = verdict.hand_back(delivery, reason="lease not renewed")
                case Stop.LOST:
                    self._forget(job)
                    return
                case Stop.HARD_LIMIT:
                    settlement = verdict.failure(delivery, plan, self._timed_out(job))
                case None | Stop.SOFT_LIMIT:
                    settlement = self._judge(job, error)
        except Exception as broken:
            settlement = self._unjudged(job, broken)
        self._settle(job, settlement)

    def _judge(self, job: Job, error: BaseException) -> Settlement:
        plan, delivery = job.plan, job.delivery
        assert plan is not None
        if job.revoke_asked and not isinstance(error, Retry):
            job.how = "finished"
            return verdict.revoked(delivery, plan.ttl_ms)
        if self._from_outside(job, error):
            return verdict.hand_back(delivery, reason="worker stops")
        job.how = "finished"
        return verdict.failure(delivery, plan, error, job.veil)

    def _unjudged(self, job: Job, error: Exception) -> Settlement:
        """Somebody's own code has raised where the end was looked at: left unsettled, the task would run for ever."""
        assert job.plan is not None
        job.error = told = verdict.unjudged(error)
        return verdict.dead(job.delivery, job.plan.ttl_ms, told, reason="failed")

    def _from_outside(self, job: Job, error: BaseException) -> bool:
        """Say whether it is not the handler's doing, but the program around us is coming to an end."""
        if isinstance(error, KeyboardInterrupt):  # python raises it in the main thread alone
            return job.on_loop and not self._owns_process
        cancelled = isinstance(error, asyncio.CancelledError) and not isinstance(error, SoftTimeLimitExceeded)
        return cancelled and job.task is not None and bool(job.task.cancelling()) and self._ending()

    def died(self, job: Job, error: WorkerLostError, *, killed: bool) -> None:
        """The child process that ran it is gone, by its own doing or because it was `killed` from here."""
        ended_at = time.monotonic()
        self._free(job)
        if job.abandoned:
            return  # a hard stop has handed it back, and killed the child
        plan, delivery = job.plan, job.delivery
        assert plan is not None
        self._board.measure(job, ended_at)
        match job.stop:
            case Stop.HARD_LIMIT:
                settlement = verdict.failure(delivery, plan, self._timed_out(job))
            case Stop.REVOKED:
                job.how = "killed"
                settlement = verdict.revoked(delivery, plan.ttl_ms)
            case Stop.HAND_BACK | Stop.UNRENEWED:
                job.how = "handed_back"
                settlement = verdict.hand_back(delivery, reason="child process killed")
            case Stop.LOST:
                self._forget(job)
                return
            case None | Stop.SOFT_LIMIT if killed:
                job.how = "handed_back"
                settlement = verdict.hand_back(delivery, reason="worker stops")
            case None | Stop.SOFT_LIMIT if job.revoke_asked:
                job.how = "crashed"
                settlement = verdict.revoked(delivery, plan.ttl_ms)
            case None | Stop.SOFT_LIMIT:
                job.error, job.how = error, "crashed"
                settlement = verdict.crashed(delivery, error, job.veil)
        self._settle(job, settlement)

    def dropped(self, job: Job) -> None:
        """It was taken back before its thread or child process began it, or came to its start too late."""
        self._free(job)
        self._zombies.remove(job)  # given up on its way to a thread
        if job.settlement is None and not job.abandoned:
            self._end_unbegun(job)
        else:
            self._look_again()

    def _end_unbegun(self, job: Job) -> None:
        assert job.plan is not None
        job.how = "not_started"
        match job.stop:
            case Stop.REVOKED:
                self._settle(job, verdict.revoked(job.delivery, job.plan.ttl_ms))
            case Stop.LOST:
                self._forget(job)
            case Stop.HARD_LIMIT:
                self._settle(job, verdict.failure(job.delivery, job.plan, self._timed_out(job)))
            case why:  # without a reason no thread could be had, and it might come straight back to the same
                delay_ms = NO_THREAD_MS if why is None else 0
                self._settle(job, verdict.hand_back(job.delivery, reason="not started", delay_ms=delay_ms))

    def _timed_out(self, job: Job) -> HardTimeLimitExceeded:
        assert job.plan is not None
        job.how = "timed_out"
        job.error = HardTimeLimitExceeded(f"the handler was ended at its time limit of {job.plan.hard_s:g} s")
        return job.error

    def _settle(self, job: Job, settlement: Settlement) -> None:
        if not self._board.conclude(job, settlement):  # a rescue has given it up in this very moment
            job.how, job.error = "handed_back", None
            return
        self._tell_postrun(job, _POSTRUN.get(settlement.outcome, settlement.outcome.value))
        self._finisher.add(job)
        self._changed()

    def _tell_postrun(self, job: Job, outcome: str) -> None:
        if StemSignals.task_postrun.wanted and job.began:
            event = TaskPostrun(**job.facts, outcome=outcome, duration_s=time.monotonic() - job.started_at)
            StemSignals.task_postrun.emit_nowait(event, job.context)

    def _free(self, job: Job) -> None:
        if job.holds_slot:
            job.holds_slot = False
            self._board.slots_used -= 1

    def _forget(self, job: Job) -> None:
        """Its lease is gone: there is nothing to settle."""
        board = self._board
        job.forgotten = True
        job.how = job.how or "lost"
        board.counters["lost"] += 1
        self._tell_postrun(job, "lost")
        log.warning("task.lease_lost", extra=job.about)
        board.remove(job)
        self._look_again()

    def _too_late(self, job: Job) -> None:
        """A handler that had been given up has ended after all."""
        self._zombies.remove(job)
        log.warning("task.ended_late", extra=job.about | {"stop": "" if job.stop is None else job.stop.value})
        self._look_again()

    # ---------------------------------------------------------------------------------------------------------- stop

    def stop(self, job: Job, why: Stop) -> None:
        """Stop a running handler for this reason; a stronger reason replaces a weaker one. On the work loop."""
        if not job.running or job.abandoned or job.stop is why:
            return
        if job.stop is not None and job.stop.weight > why.weight:
            return
        job.stop = why
        if job.isolated:
            self._stop_process(job, why)
        elif job.threaded:
            self._stop_thread(job, why)
        else:
            self._stop_async(job, why)

    def revoke(self, job: Job, *, terminate: bool) -> None:
        """Tell a handler that it is revoked; with `terminate`, stop it after a short grace. On the work loop."""
        job.revoke_asked = True
        if not job.on_loop and not job.began and self._take_back(job):
            job.stop = Stop.REVOKED
            self.dropped(job)
            return
        if job.isolated:
            self._processes.tell(job, "revoked")
        if terminate and not job.terminate:
            job.terminate = True
            self._wheel.after(COOPERATIVE_GRACE_S, lambda: job.running, lambda: self.stop(job, Stop.REVOKED))

    def lose(self, job: Job) -> None:
        """The broker says the lease is gone. On the work loop."""
        job.lost = True
        if job.isolated:
            self._processes.tell(job, "lost")
        if job.running:
            self.stop(job, Stop.LOST)

    def hand_back_unbegun(self) -> None:
        """Take back what waits for a thread or child and must not begin: it was paused, or the worker stops.

        Nothing else: what is handed back goes to the end of its queue.
        """
        for job in self._board.snapshot():
            waits = not job.on_loop and not job.began and job.running and self._board.closed_to(job)
            if waits and self._take_back(job):
                self.dropped(job)

    def _take_back(self, job: Job) -> bool:
        return self._processes.take_back(job) if job.isolated else self._threads.take_back(job)

    def _stop_async(self, job: Job, why: Stop) -> None:
        task = job.task
        if task is None:
            return  # it has not begun, and will not: see `Job.late`
        if why is Stop.SOFT_LIMIT:
            job.soft_due = True
            task.cancel()
            return
        job.soft_due = False
        task.cancel()
        self._wheel.after(CANCEL_GRACE_S, lambda: job.running, lambda: self._cancel_again(job))

    def _cancel_again(self, job: Job) -> None:
        assert job.task is not None
        job.task.cancel()
        self._wheel.after(CANCEL_GRACE_S, lambda: job.running, lambda: self._give_up(job))

    def _stop_thread(self, job: Job, why: Stop) -> None:
        if self._threads.take_back(job):
            self.dropped(job)
            return
        if why is Stop.HARD_LIMIT:
            # A thread cannot be ended: the task is, and the thread's slot is lost until the handler returns.
            self._threads.interrupt(job, SoftTimeLimitExceeded)
            self._give_up(job)
            return
        self._threads.interrupt(job, SoftTimeLimitExceeded)
        if why is not Stop.SOFT_LIMIT:
            self._wheel.after(CANCEL_GRACE_S, lambda: job.running, lambda: self._give_up(job))

    def _stop_process(self, job: Job, why: Stop) -> None:
        """Told first, then ended: whatever it was stopped for, it is settled when its process is gone, not before."""
        if self._processes.take_back(job):
            self.dropped(job)
        elif why is Stop.HARD_LIMIT:
            self._processes.end(job)
        else:
            if why is Stop.UNRENEWED:
                self._processes.tell(job, "lost")
            self._processes.interrupt(job)
            if why is not Stop.SOFT_LIMIT:
                grace_s = SOFT_GRACE_S if why is Stop.REVOKED else CANCEL_GRACE_S
                self._wheel.after(grace_s, lambda: job.running, lambda: self._processes.end(job))

    def _give_up(self, job: Job) -> None:
        """Settle a job whose handler does not end; its slot stays taken until it does."""
        plan = job.plan
        assert plan is not None
        job.abandoned = True
        self._zombies.add(job)
        log.error("task.does_not_end", extra=job.about | {"stop": "" if job.stop is None else job.stop.value})
        match job.stop:
            case Stop.REVOKED:
                job.how = "zombie"
                self._settle(job, verdict.revoked(job.delivery, plan.ttl_ms))
            case Stop.LOST:
                self._forget(job)
            case Stop.HARD_LIMIT:
                self._settle(job, verdict.failure(job.delivery, plan, self._timed_out(job)))
            case _:
                # Handing it back would start it a second time beside the one that does not end; but its lease cannot
                # be kept for ever either, and the handler has been told.
                job.how = "handed_back"
                self._settle(job, verdict.hand_back(job.delivery, reason="handler does not end"))

    # --------------------------------------------------------------------------------------------- for the handler

    def progressed(self, job: Job, packed: bytes) -> None:
        if job.settlement is None:
            self._board.progress[job.id] = packed
            if self._board.watched and self._board.wants("task.progress"):
                self._board.note("task.progress", job, {"progress": job.progress_value})

    def lease_wanted(self, job: Job) -> None:
        self._poke_vitals()

    async def enqueue(self, job: Job, signature: Signature) -> str:
        return await self._client().send(signature, origin=job.context)

    def enqueue_blocking(self, job: Job, signature: Signature) -> str:
        if threading.get_ident() == self._thread_id:
            raise RuntimeError("enqueue_blocking would block the work loop: use `await context.enqueue(...)` here")
        return asyncio.run_coroutine_threadsafe(self.enqueue(job, signature), self._loop).result()
