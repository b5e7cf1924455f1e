"""Group commit for producers: tasks gather while a round trip is under way and leave together with the next one.

Knows a broker's `enqueue` and which outcomes may be repeated; nothing of what a task is.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final

from stem.contracts import Broker, Enqueued, NewTask
from stem.errors import BrokerError, BrokerRefusedError, BrokerUnreachableError, UnknownOutcomeError

BATCH: Final = 500
BATCH_BYTES: Final = 1024 * 1024
"""Of bodies in one batch, though always one task: it has to arrive before its answer is given up, on slow links too."""
PATIENCE_S: Final = 5.0
"""How long an enqueue is repeated before its caller hears of the outage: so long the broker has answered nobody."""

_PASSING: Final = frozenset(
    {"LOADING", "BUSY", "MISCONF", "NOREPLICAS", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN"}
)


def passing(error: BrokerError) -> bool:
    """Say whether the same request may well succeed in a moment. Repeating it is safe: the id stays the same."""
    if isinstance(error, BrokerRefusedError):
        return error.code in _PASSING
    return isinstance(error, BrokerUnreachableError | UnknownOutcomeError)


def pause_s(failures: int) -> float:
    """Return how long to wait after so many failures in a row (from 1): 20 ms doubling up to 0.5 s, jittered."""
    return float(min(0.5, 0.02 * 2 ** min(failures - 1, 10)) * (0.5 + random.random() / 2))


def gave_up(tasks: Sequence[NewTask], error: BrokerError, *, unknown: bool, after_s: float) -> BrokerError:
    """Return the error for a caller whose tasks could not be sent in time.

    Args:
        unknown: one of the tries may have been applied.
    """
    what = _named(tasks)
    if unknown:
        return UnknownOutcomeError(
            f"{what}: no answer from the broker for {after_s:g} s, may or may not be enqueued ({error}). Enqueue again "
            "with the same task_id, which is safe, or look with status()"
        )
    if isinstance(error, BrokerRefusedError):
        return BrokerRefusedError(f"{what}: not enqueued, refused for {after_s:g} s: {error}", code=error.code)
    return BrokerUnreachableError(
        f"{what}: not enqueued, the broker could not be reached for {after_s:g} s: {error}. Check the server and "
        "STEM_BROKER_URL, then enqueue again"
    )


def refused(tasks: Sequence[NewTask], error: BrokerError, *, unknown: bool) -> BrokerError:
    """Return the error for a caller whose tasks met a refusal that does not pass: that one, if it is the whole truth.

    A refusal speaks of its own try only. Told alone after a try that may have been applied, it would make the caller do
    elsewhere, or under another id, what has been enqueued.

    Args:
        unknown: one of the tries before may have been applied.
    """
    if not unknown:
        return error
    return UnknownOutcomeError(
        f"{_named(tasks)}: one try got no answer, the next one was refused ({error}): may or may not be enqueued. See "
        "to the refusal, then enqueue again with the same task_id, which is safe, or look with status()"
    )


def in_part(
    tasks: Sequence[NewTask], answers: Sequence[Enqueued | None], failures: Sequence[BrokerError]
) -> BrokerError:
    """Return the error for a caller of whose tasks some batches failed: it must not say of all what is true of some.

    Args:
        answers: per task, None where its batch failed or was not sent.
        failures: in the order of their batches, at least one.
    """
    taken = [answer.id for answer in answers if answer is not None and answer.taken]
    if not taken:
        return next((each for each in failures if isinstance(each, UnknownOutcomeError)), failures[0])
    error = UnknownOutcomeError(
        f"{len(taken)} of {len(tasks)} tasks are enqueued (`enqueued` has their ids), the others are not known to be: "
        f"{failures[0]}. Enqueued again without a task_id of their own, those {len(taken)} would run twice",
        enqueued=taken,
    )
    error.__cause__ = failures[0]
    return error


def _named(tasks: Sequence[NewTask]) -> str:
    return f"task {tasks[0].id}" if len(tasks) == 1 else f"{len(tasks)} tasks from {tasks[0].id} on"


def batches(tasks: Sequence[NewTask]) -> Iterator[Sequence[NewTask]]:
    """Cut tasks into what is sent at a time, in order."""
    start = size = 0
    for at, task in enumerate(tasks):
        if at > start and (at - start == BATCH or size + len(task.body) > BATCH_BYTES):
            yield tasks[start:at]
            start, size = at, 0
        size += len(task.body)
    if tasks:
        yield tasks[start:]


class _Parcel:
    """The tasks of one caller, at most a batch, and when they were put in."""

    __slots__ = ("error", "future", "put_s", "size", "tasks", "unknown")

    def __init__(self, tasks: Sequence[NewTask], future: asyncio.Future[Sequence[Enqueued]]) -> None:
        self.tasks = tasks
        self.future = future
        self.put_s = time.monotonic()
        self.size = sum(len(task.body) for task in tasks)
        self.error: BrokerError | None = None
        self.unknown = False


class Outbox:
    """Sends for all callers of one event loop. Its sender task lives only while there is something to send."""

    def __init__(self, broker: Broker, *, patience_s: float = PATIENCE_S) -> None:
        self._broker = broker
        self._patience_s = patience_s
        self._loop = asyncio.get_running_loop()
        self._parcels: deque[_Parcel] = deque()
        self._under_way: list[_Parcel] = []
        self._sender: asyncio.Task[None] | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._answered_s = 0.0

    async def send(self, task: NewTask) -> Enqueued:
        """Send one task, together with whatever else waits to be sent.

        A caller that is cancelled takes its task back if it has not left yet.

        Raises:
            UnknownOutcomeError, BrokerUnreachableError: not possible in `patience_s`.
            BrokerRefusedError: refused by the server, and no earlier try may have been applied.
        """
        return (await self._put([task]))[0]

    async def send_many(self, tasks: Sequence[NewTask]) -> tuple[list[Enqueued | None], BrokerError | None]:
        """Send many; return one answer per task, in order, and the error to raise if not all were answered.

        None stands for a task whose batch failed. Where others were taken the error is an `UnknownOutcomeError` whose
        `enqueued` names them; where none was, it is what `send` raises.
        """
        chunks = list(batches(tasks))
        # All of them are waited for before the first error is raised: nothing goes on behind the caller's back.
        answered = await asyncio.gather(*[self._put(chunk) for chunk in chunks], return_exceptions=True)
        merged: list[Enqueued | None] = []
        failures: list[BrokerError] = []
        for chunk, answers in zip(chunks, answered, strict=True):
            if isinstance(answers, BrokerError):
                failures.append(answers)
                merged.extend([None] * len(chunk))
            elif isinstance(answers, BaseException):
                raise answers
            else:
                merged.extend(answers)
        return merged, in_part(tasks, merged, failures) if failures else None

    async def flush(self) -> None:
        """Return once everything that was put in so far has been answered."""
        while self._sender is not None:
            await asyncio.wait([self._sender])

    def close(self) -> None:
        """Stop the clock that watches over deadlines; call it when nothing is sent any more."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def _put(self, tasks: Sequence[NewTask]) -> asyncio.Future[Sequence[Enqueued]]:
        future: asyncio.Future[Sequence[Enqueued]] = self._loop.create_future()
        self._parcels.append(_Parcel(tasks, future))
        if self._sender is None:
            # It begins after everything that is ready in this turn of the loop, so concurrent callers join it.
            self._sender = self._loop.create_task(self._send_all())
        if self._alarm is None:
            self._alarm = self._loop.call_later(self._patience_s + 0.05, self._look_at_deadlines)
        return future

    def _deadline_s(self, parcel: _Parcel) -> float:
        """Return until when its caller waits: as long as others are answered there is no outage, only a queue."""
        return max(parcel.put_s, self._answered_s) + self._patience_s

    def _look_at_deadlines(self) -> None:
        """Answer callers whose patience ran out while the broker neither answers nor fails (a frozen server).

        One timer for all callers, and none while nothing is sent.
        """
        self._alarm = None
        now = time.monotonic()
        for parcel in (*self._under_way, *self._parcels):
            if now >= self._deadline_s(parcel) and not parcel.future.done():
                unknown = parcel.unknown or parcel in self._under_way
                error = parcel.error or BrokerUnreachableError(f"{self._broker.url} does not answer")
                parcel.future.set_exception(gave_up(parcel.tasks, error, unknown=unknown, after_s=self._patience_s))
        waiting = [
            self._deadline_s(parcel) for parcel in (*self._under_way, *self._parcels) if not parcel.future.done()
        ]
        if waiting:
            self._alarm = self._loop.call_later(min(waiting) - now + 0.05, self._look_at_deadlines)

    async def _send_all(self) -> None:
        failures = 0
        try:
            while self._parcels:
                parcels = self._take()
                if not parcels:
                    continue
                self._under_way = parcels
                answered = await self._send_batch(parcels)
                self._under_way = []
                if answered:
                    failures = 0
                else:
                    failures += 1
                    await asyncio.sleep(pause_s(failures))
        finally:
            self._sender = None
            # Only a cancelled sender (the loop is closing) leaves something behind.
            for parcel in self._parcels:
                parcel.future.cancel()
            self._parcels.clear()

    def _take(self) -> list[_Parcel]:
        taken: list[_Parcel] = []
        room, room_bytes = BATCH, BATCH_BYTES
        while self._parcels:
            first = self._parcels[0]
            if taken and (len(first.tasks) > room or first.size > room_bytes):
                break
            self._parcels.popleft()
            if not first.future.done():
                taken.append(first)
                room, room_bytes = room - len(first.tasks), room_bytes - first.size
        return taken

    async def _send_batch(self, parcels: list[_Parcel]) -> bool:
        """Send these parcels and answer them; False if they are to be sent again after a pause."""
        try:
            answers = await self._broker.enqueue([task for parcel in parcels for task in parcel.tasks])
        except BrokerError as error:
            return self._failed(parcels, error)
        except asyncio.CancelledError:
            for parcel in parcels:
                parcel.future.cancel()
            raise
        except Exception as error:
            # An adapter's mistake: each caller hears of it, and the next ones are still served.
            for parcel in parcels:
                if not parcel.future.done():
                    parcel.future.set_exception(error)
            return True
        self._answered_s = time.monotonic()
        start = 0
        for parcel in parcels:
            end = start + len(parcel.tasks)
            if not parcel.future.done():
                parcel.future.set_result(answers[start:end])
            start = end
        return True

    def _failed(self, parcels: list[_Parcel], error: BrokerError) -> bool:
        again = passing(error)
        now = time.monotonic()
        kept: list[_Parcel] = []
        for parcel in parcels:
            parcel.error = error
            parcel.unknown = parcel.unknown or isinstance(error, UnknownOutcomeError)
            if parcel.future.done():
                continue
            if again and now < self._deadline_s(parcel):
                kept.append(parcel)
                continue
            if again:
                failure = gave_up(parcel.tasks, error, unknown=parcel.unknown, after_s=self._patience_s)
            else:
                failure = refused(parcel.tasks, error, unknown=parcel.unknown)
            failure.__cause__ = error if failure is not error else error.__cause__
            parcel.future.set_exception(failure)
        self._parcels.extendleft(reversed(kept))
        return not kept
