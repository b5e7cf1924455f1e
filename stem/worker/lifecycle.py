"""How a worker stops: the table of stops as one small machine in the vitals thread, and the operating system's signals
that drive it. It acts at once, whatever the work loop does.

    warm   takes nothing more, finishes what runs; after the drain timeout: soft
    soft   handlers are cancelled or told; after the soft timeout: hard
    hard   everything still in flight is handed back now; what runs on a wedged work loop counts as a crash
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

from stem.contracts import Broker, Settlement
from stem.errors import BrokerError, ConfigError, InvalidInputError, WorkerLostError
from stem.options import to_seconds
from stem.worker import stacks, verdict
from stem.worker.board import Board
from stem.worker.finisher import BATCH_BYTES, size_of
from stem.worker.job import Job
from stem.worker.loops import happens

log = logging.getLogger("stem.worker")

RESCUE_S: Final = 5.0
GIVEN_UP: Final = {"applied": "handed_back", "buried": "failed", "revoked": "revoked"}
"""How an answer to it counts a task that was given up before its handler had ended."""
HAND_BACK_S: Final = 2.0
LIGHT_BYTES: Final = 4096
"""Up to this size an outcome is rescued before those which may take too long for the link."""
LAST_ANSWERS_S: Final = 2.0
"""How long a stop tries to hand back what is left: whoever stops the process (Kubernetes after 30 s) does not wait."""
WEDGED_EXIT: Final = 70
REFUSED_EXIT: Final = 78
"""The server does not let the worker in: user, password, rights, a newer keyspace. A new start changes nothing."""
TASKS_LEFT: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerLifecycleConfig:
    """How a worker lives in its process. Times are seconds; a timedelta becomes seconds.

    Attributes:
        install_signal_handlers: the process is the worker's: it reacts to SIGTERM, SIGHUP, SIGINT, SIGQUIT and
            SIGUSR1, and a work loop that stays wedged ends it. Leave it off when the worker is embedded in an
            application.
        soft_timeout: how long handlers that were told to stop may take.
        drain_timeout: how long a warm stop waits for what runs; None takes it from the configuration (25 s).
        wedged_timeout: how long the work loop may stand still; None takes it from the configuration (60 s).
        max_tasks_per_child: a child process is replaced after so many tasks; max_memory_per_child: when it holds more
            bytes of memory (resident) after a task. They concern tasks with `isolation="process"`.

    Raises:
        ConfigError: a time that is none, below 0 or above ten years, or a number below 1.
    """

    install_signal_handlers: bool = False
    soft_timeout: float = 3.0
    drain_timeout: float | None = None
    wedged_timeout: float | None = None
    max_tasks_per_child: int | None = None
    max_memory_per_child: int | None = None

    def __post_init__(self) -> None:
        for name in ("soft_timeout", "drain_timeout", "wedged_timeout"):
            wish = getattr(self, name)
            if wish is not None or name == "soft_timeout":
                try:
                    object.__setattr__(self, name, to_seconds(name, wish, least=0))
                except InvalidInputError as error:
                    raise ConfigError(str(error)) from None
        for name in ("max_tasks_per_child", "max_memory_per_child"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ConfigError(f"{name}={ascii(value)[:80]}: give a whole number of at least 1, or None")


class Level(IntEnum):
    """How hard the worker is being stopped."""

    NONE = 0
    WARM = 1
    SOFT = 2
    HARD = 3

    @property
    def word(self) -> str:
        return self.name.lower()


class Lifecycle:
    """The stop machine of one worker. Belongs to the vitals loop.

    Args:
        announce: called with each new level, before anything is done about it.
        stop_handlers: asks the work loop to stop everything that runs; `hand_back_waiting` what has not begun.
        kill_children: kills the child processes, before what they run is handed back.
        under_way: says whether an answer of the broker that may carry tasks is still to come.
        wedged: says whether the work loop is wedged.
    """

    def __init__(
        self,
        *,
        board: Board,
        worker_id: str,
        soft_timeout_s: float,
        drain_timeout_s: float,
        announce: Callable[[Level, str], None],
        stop_handlers: Callable[[], None],
        hand_back_waiting: Callable[[], None],
        kill_children: Callable[[], Awaitable[None]],
        under_way: Callable[[], bool],
        wedged: Callable[[], bool],
    ) -> None:
        self._board = board
        self._worker_id = worker_id
        self._soft_timeout_s = soft_timeout_s
        self._drain_timeout_s = drain_timeout_s
        self._announce = announce
        self._stop_handlers = stop_handlers
        self._hand_back_waiting = hand_back_waiting
        self._kill_children = kill_children
        self._under_way = under_way
        self._wedged = wedged
        self._changed = asyncio.Event()
        self.level = Level.NONE
        self.asked = asyncio.Event()
        self.exit_code = 0

    def ask(self, level: Level, why: str) -> None:
        """Stop at least this hard."""
        if level > self.level:
            self.level = level
            log.info("worker.stopping", extra={"mode": level.word, "reason": why})
            self._board.stopping = True
            self._announce(level, why)
        self.asked.set()
        self._changed.set()

    def fail(self, why: str, *, exit_code: int = WEDGED_EXIT, level: Level = Level.HARD) -> None:
        """Something is broken for good: stop, at least this hard, and end with this exit code."""
        log.critical("worker.broken", extra={"reason": why})
        self.exit_code = exit_code
        self.ask(level, why)

    def signalled(self, number: int) -> None:
        """React to a signal of the operating system; each further one is a step harder."""
        name = signal.Signals(number).name
        if number == signal.SIGQUIT:
            self.ask(Level.HARD, name)
        elif number == signal.SIGINT:
            self.ask(Level(min(Level.HARD, max(self.level + 1, Level.SOFT))), name)
        else:
            self.ask(Level(min(Level.HARD, self.level + 1)), name)

    def emptied(self) -> None:
        """The last job has been settled."""
        self._changed.set()

    async def run(self, broker: Broker) -> int:
        """Wait until somebody asks, stop, and return the exit code."""
        await self.asked.wait()
        if self.level is Level.WARM:
            self._hand_back_waiting()
            await self._until_empty(self._drain_timeout_s, below=Level.SOFT)
            if self._board.jobs:
                self.ask(Level.SOFT, "the drain timeout has passed")
        if self._board.jobs and self.level is Level.SOFT:
            self._stop_handlers()
            await self._until_empty(self._soft_timeout_s, below=Level.HARD)
            if self._board.jobs:
                self.ask(Level.HARD, "the soft timeout has passed")
        await self._until_answered()
        if self._board.jobs:
            await self._kill_children()
            left = await rescue(broker, self._board, self._worker_id, crashed=self._blamed(), timeout_s=HAND_BACK_S)
            if left:
                log.error("worker.tasks_left", extra={"count": left, "hint": "their leases will run out"})
                return self.exit_code or TASKS_LEFT
        return self.exit_code

    def _blamed(self) -> Callable[[Job], bool]:
        """Return which jobs of a rescue count as a crash: those that may be what blocks the work loop.

        Handed back uncounted, a task that blocks would wedge one worker after another, as often as they are restarted.
        """
        wedged = self._wedged()
        return lambda job: wedged and job.began and job.on_loop

    async def _until_answered(self) -> None:
        """Wait for what the broker was asked before the stop: tasks that come with it are handed back.

        Left to themselves they would stand as running until their leases end, and count as a crash of this worker.
        """
        deadline = time.monotonic() + LAST_ANSWERS_S
        while self._under_way() or self._board.jobs:
            left = deadline - time.monotonic()
            if left <= 0 or self.level is Level.HARD:
                return
            self._changed.clear()
            await happens(self._changed, min(left, 0.02))

    async def _until_empty(self, timeout_s: float, *, below: Level) -> None:
        """Wait until nothing is in flight, a harder stop is asked for, or time has run out."""
        deadline = time.monotonic() + timeout_s
        while self._board.jobs and self.level < below and (left := deadline - time.monotonic()) > 0:
            self._changed.clear()
            await happens(self._changed, min(left, 0.25))


async def rescue(
    broker: Broker, board: Board, worker_id: str, *, crashed: Callable[[Job], bool], timeout_s: float
) -> int:
    """Settle everything in flight from this thread, on this broker; return how many are left.

    What has ended keeps its outcome. What has not is handed back, or counts as a crash where `crashed` says so;
    whatever its handler still brings is ignored. The work loop may be settling the same ones: by token, the first one
    counts.

    They leave in parts that arrive over a slow link too, the light ones first.
    """
    deadline = time.monotonic() + timeout_s
    while waiting := board.snapshot():
        given = {job: _settlement(board, job, crashed=crashed(job)) for job in waiting}
        jobs = _part([job for job in waiting if size_of(job) <= LIGHT_BYTES] or waiting)
        settlements = [given[job] for job in jobs]
        try:
            async with asyncio.timeout(max(0.1, deadline - time.monotonic())):
                answer = await broker.exchange(worker_id, settlements, None)
        except (BrokerError, TimeoutError):
            if time.monotonic() + 0.3 > deadline:
                break
            await asyncio.sleep(0.3)
            continue
        for job, settled in zip(jobs, answer.settled, strict=True):
            if settled in GIVEN_UP and job.abandoned:
                board.counters[GIVEN_UP[settled]] += 1
            board.remove(job)
        if time.monotonic() > deadline:
            break
    return len(board.jobs)


def _part(jobs: Sequence[Job]) -> Sequence[Job]:
    """Return the first of them that may leave together."""
    used = 0
    for at, job in enumerate(jobs):
        used += size_of(job)
        if at and used > BATCH_BYTES:
            return jobs[:at]
    return jobs


def _settlement(board: Board, job: Job, *, crashed: bool) -> Settlement:
    """Return how a job ended; it is given up if it has not, unless the work loop brings its end in this moment."""
    if job.settlement is None:
        if crashed:
            given_up = verdict.crashed(job.delivery, WorkerLostError("the worker's loop stood still for too long"))
        else:
            given_up = verdict.hand_back(job.delivery, reason="worker stops")
        if board.conclude(job, given_up):
            job.abandoned = True
            job.how = "handed_back"
    assert job.settlement is not None
    return job.settlement


STOPPING: Final = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)


def stopping_here() -> tuple[signal.Signals, ...]:
    """Return the signals that stop a worker: also that its terminal is gone, unless it is to outlive that (`nohup`)."""
    outlives = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return tuple(number for number in STOPPING if not (outlives and number == signal.SIGHUP))


@contextmanager
def signals_to(react: Callable[[int], None]) -> Iterator[None]:
    """Send the signals of the stop table to `react`, and give the handlers back afterwards. Main thread only.

    `signal.signal` and not the loop's own handlers: those would wait for a loop that may be wedged.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("signal handlers can only be installed by the main thread: start the worker there")

    def handle(number: int, frame: object) -> None:
        react(number)

    wanted = (*stopping_here(), signal.SIGUSR1)
    before: dict[int, Any] = {number: signal.signal(number, handle) for number in wanted}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def write_stacks(
    loop: asyncio.AbstractEventLoop | None, child_stacks: Callable[[], Sequence[Mapping[str, Any]]] = tuple
) -> None:
    """Write what every thread, task and child process is doing to stderr, if somebody reads that.

    Never raises: a worker is asked for its stacks where worse has happened, and goes on to save what it holds.
    """
    try:
        report = stacks.report(loop, child_stacks())
        if sys.stderr is not None:  # the process may have been started without
            sys.stderr.write(report)
            sys.stderr.flush()
    except Exception as error:
        log.error("worker.no_stacks", extra={"error": f"{type(error).__name__}: {error}"})
