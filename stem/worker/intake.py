"""Free slots become fetch requests, answers become deliveries; outcomes travel along in the same round trip.

Two lanes send exchanges, so that the broker works on one batch while the handlers of the other run. A second exchange
leaves beside the first only when there is a batch worth of it; otherwise outcomes gather and leave together. Large ones
leave one after the other: both lanes share the link.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

from stem.contracts import Broker, Exchange, FetchRequest
from stem.errors import BrokerError, UnknownOutcomeError
from stem.worker.board import Board
from stem.worker.dispatch import Dispatcher
from stem.worker.expiry import Expiry
from stem.worker.finisher import Finisher
from stem.worker.job import Job
from stem.worker.loops import happens
from stem.worker.outage import SAID_EVERY_S, Outages

log = logging.getLogger("stem.worker")

LANES: Final = 2
LARGEST_FETCH: Final = 250
LONGEST_IDLE_S: Final = 2.0
STALE_RETRY_S: Final = 1.0


class Intake:
    """The traffic between one worker and its broker. Belongs to the work loop.

    `serial` and `busy_before` may be called from the vitals thread.
    """

    def __init__(
        self,
        *,
        broker: Broker,
        board: Board,
        dispatcher: Dispatcher,
        finisher: Finisher,
        expiry: Expiry,
        worker_id: str,
        lease_ms: int,
        leases: dict[str, int],
        catch_up: Callable[[], None],
        missing: Callable[[], None],
        outages: Outages,
    ) -> None:
        self._broker = broker
        self._board = board
        self._dispatcher = dispatcher
        self._finisher = finisher
        self._expiry = expiry
        self._worker_id = worker_id
        self._lease_ms = lease_ms
        self._leases = leases
        self._catch_up = catch_up
        self._missing = missing
        self._poked = asyncio.Event()
        self._hungry = asyncio.Event()
        self._outage = outages.of("tasks")
        self._deaf = outages.of("bell")
        self._closed = False
        self._closing = asyncio.Event()
        self._serial = 0
        self._under_way: dict[int, int] = {}
        self._rotation = 0
        self._dry = False
        self._rings = 0
        self._wary = False
        self._more = False
        self._stale_at: int | None = None
        self._stale_until = 0.0
        self._adopt = True
        self._adopt_failed = False
        self._adopted_unsaid = 0
        self._adopted_said_at = -SAID_EVERY_S
        self._idle_s = LONGEST_IDLE_S
        self._idle: asyncio.Task[None] | None = None
        # A part of the slots per exchange: while its tasks run, the other lane's exchange is with the broker.
        self._share = max(1, min(LARGEST_FETCH, (board.concurrency + 1) // 2 if board.concurrency >= 4 else 4))

    # ------------------------------------------------------------------------------------------------------ any thread

    @property
    def serial(self) -> int:
        """Return the number of the newest exchange."""
        return self._serial

    def busy_before(self, serial: int) -> bool:
        """Say whether an exchange up to this number is under way, or its deliveries have not all begun.

        An exchange takes its number before it reads the epoch it is sent with. So whoever sets the epoch first, reads
        `serial` then, and waits until this is false, knows that every later delivery was handed out under that epoch.
        """
        # What is to be adopted was handed out before, too.
        return self._adopt or any(number <= serial for number in list(self._under_way))

    # ------------------------------------------------------------------------------------------------- the work loop

    def changed(self) -> None:
        """Look again: a job has ended, or what is asked of the worker has changed."""
        self._poked.set()
        self._leave_bells()

    def look_again(self) -> None:
        """As `changed`, and ask the broker even if it had nothing the last time."""
        self._rang()
        self._hungry.set()
        self._leave_bells()

    def _rang(self) -> None:
        """There may be something since now: the answer to an exchange that is under way does not say otherwise."""
        self._rings += 1
        self._dry = False
        self._poked.set()

    def _leave_bells(self) -> None:
        """Wait for no bell where nothing would be taken: it would ring for nobody, though others are idle."""
        if self._idle is not None and not self._board.accepting:
            self._idle.cancel()

    def adopt_soon(self) -> None:
        """Ask the broker, once nothing is under way, for deliveries whose reply got lost."""
        self._adopt = True
        self._poked.set()

    def close(self) -> None:
        self._closed = True
        self._closing.set()
        self._poked.set()
        self._hungry.set()
        if self._idle is not None:
            self._idle.cancel()

    async def lane(self) -> None:
        """Send exchanges until closed."""
        while not self._closed:
            self._poked.clear()
            if self._adopt:
                if not self._under_way:
                    # Ends are told between two tries: what may never arrive must not hold up what is done.
                    tell = self._adopt_failed and len(self._finisher) > 0
                    self._adopt_failed = False
                    await self._pause(await (self._exchange(0) if tell else self._adopt_lost()))
                    continue
            else:
                count = self._wanted()
                waiting = self._finisher.ready
                if (count or waiting) and self._worth_it(count, waiting):
                    await self._pause(await self._exchange(count))
                    continue
            if self._stale_at is not None:
                await self._wait_while_stale()
                continue
            await self._poked.wait()

    async def listen(self) -> None:
        """While there are free slots and nothing to fetch, wait for the bell."""
        while not self._closed:
            self._hungry.clear()
            queues = self._board.open_queues()
            if not self._dry or not self._free() or not self._board.accepting or not queues:
                await self._hungry.wait()
                continue
            self._idle = idle = asyncio.ensure_future(self._broker.idle(queues, self._idle_s))
            try:
                await asyncio.wait([idle])  # not awaited itself, to tell its cancellation from our own
            finally:
                self._idle = None
                idle.cancel()
            if idle.cancelled():
                continue  # the slots filled up meanwhile: the bell is for somebody else
            error = idle.exception()
            if isinstance(error, BrokerError):
                await self._pause(self._deaf.failed(error))
            elif error is not None:
                raise error
            else:
                self._deaf.over()
            self._rang()

    def _free(self) -> int:
        return self._board.concurrency - self._board.slots_used - sum(self._under_way.values())

    def _wanted(self) -> int:
        """Return how many deliveries to ask for now."""
        board = self._board
        if not board.accepting:
            return 0
        if self._stale_at is not None:
            if board.epoch == self._stale_at and time.monotonic() < self._stale_until:
                return 0
            self._stale_at = None
        if self._dry and not self._finisher.ready:
            return 0
        free = self._free()
        return min(free, self._share) if free > 0 and board.open_queues() else 0

    def _worth_it(self, count: int, waiting: int) -> bool:
        """One exchange at a time, unless a second one carries a whole batch."""
        if not self._under_way:
            return True
        batch = self._share // 2
        return waiting > batch or (self._more and count > batch)

    async def _exchange(self, count: int) -> float:
        """Settle what waits and fetch `count`; return the seconds to wait before the next attempt."""
        board = self._board
        jobs = self._finisher.take()
        self._serial = serial = self._serial + 1
        self._under_way[serial] = count
        try:
            epoch = board.epoch  # after the number is taken: see `busy_before`
            # After an answer that did not come, outcomes go alone: with a fetch it may be too much again, and for ever.
            fetching = count and board.accepting and not (jobs and self._wary)
            request = self._request(count, epoch) if fetching else None
            sent_at, rings = time.monotonic(), self._rings
            try:
                answer = await self._broker.exchange(
                    self._worker_id, [job.settlement for job in jobs if job.settlement is not None], request
                )
            except BrokerError as error:
                self._finisher.restore(jobs)
                return self._failed(error)
            except BaseException:
                self._finisher.restore(jobs)
                raise
            self._wary = self._wary and not jobs
            self._outage.over()
            if not self._deaf.refused:
                self._deaf.over()  # a busy worker does not listen, and would never learn that it could
            self._finisher.answered(jobs, answer.settled)
            self._under_way[serial] = 0  # from here on the deliveries count themselves
            if request is not None:
                await self._received(answer, sent_at, epoch, rings=rings)
            return 0.0
        finally:
            del self._under_way[serial]
            self._poked.set()

    async def _received(self, answer: Exchange, sent_at: float, epoch: int, *, rings: int) -> None:
        begin = self._dispatcher.begin
        for delivery in answer.deliveries:
            begin(delivery, sent_at)
        if answer.stale:
            self._stale_at, self._stale_until = epoch, time.monotonic() + STALE_RETRY_S
            self._catch_up()
            return
        if answer.mended:
            log.warning(
                "queue.mended",
                extra={
                    "queue": ",".join(dict.fromkeys(answer.mended)),
                    "hint": "its stream or consumer group was gone and is made anew; tasks it held are looked for",
                },
            )
            self._missing()
        self._more = answer.more
        if answer.more:
            self._dry = False
        elif rings == self._rings:
            self._dry = True
        due_ms = answer.next_due_ms
        self._idle_s = LONGEST_IDLE_S if due_ms is None else max(0.001, min(LONGEST_IDLE_S, due_ms / 1000))
        if self._dry:
            if self._free() > 0:
                self._hungry.set()
            if due_ms is not None and due_ms <= 0:
                self._dry = False
        if answer.expired:
            self._expiry.tell(answer.expired)
        if answer.deliveries:
            if self._idle is not None and self._free() <= 0:
                self._idle.cancel()
            await self._all_begun()

    def _request(self, count: int, epoch: int) -> FetchRequest | None:
        queues = self._board.open_queues()
        if not queues:
            return None  # all were paused just now
        self._rotation += 1
        turn = self._rotation % len(queues)
        if turn:
            queues = queues[turn:] + queues[:turn]
        return FetchRequest(queues=queues, count=count, lease_ms=self._lease_ms, leases=self._leases, epoch=epoch)

    def _failed(self, error: BrokerError) -> float:
        """Return how long to wait; after an unknown outcome, deliveries may have been lost with the reply."""
        self._wary = self._wary or isinstance(error, UnknownOutcomeError)
        if isinstance(error, UnknownOutcomeError) or self._outage.on or self._deaf.on:
            self._adopt = True
        self._dry = False
        return self._outage.failed(error)

    async def _pause(self, seconds: float) -> None:
        """Wait, though not past the end of the worker."""
        if seconds and not self._closed:
            await happens(self._closing, seconds)

    async def _wait_while_stale(self) -> None:
        left = self._stale_until - time.monotonic()
        if not await happens(self._poked, max(0.001, left)):
            self._catch_up()
            self._stale_until = time.monotonic() + STALE_RETRY_S
            self._stale_at = None if self._board.epoch != self._stale_at else self._stale_at

    async def _all_begun(self) -> None:
        """Wait until every handler has begun: one turn of the loop, and one more for each that waits for something."""
        await asyncio.sleep(0)
        while not self._dispatcher.all_begun:  # noqa: ASYNC110 - each turn begins one more of them
            await asyncio.sleep(0)

    async def _adopt_lost(self) -> float:
        """Take over deliveries that the broker handed to us and we never saw."""
        board = self._board
        self._serial = serial = self._serial + 1
        self._under_way[serial] = 0
        try:
            asked_at = time.monotonic()
            try:
                deliveries = await self._broker.adopt(self._worker_id, board.queues, set(board.jobs))
            except BrokerError as error:
                self._adopt_failed = True
                return self._failed(error)
            self._adopt = False
            # Where an exchange is to follow, that one says whether the outage is over: it may need more rights.
            if not self._wanted() and not len(self._finisher):
                self._outage.over()
            adopted = []
            for delivery in deliveries:
                held: Job | None = board.jobs.get(delivery.id)
                if held is not None and held.delivery.token >= delivery.token:
                    continue
                adopted.append(delivery.id)
                self._dispatcher.begin(delivery, asked_at)
            if adopted:
                self._tell_adopted(adopted)
                self._adopt = True  # an answer holds a part of what is large: ask until nothing new comes
            if deliveries:
                await self._all_begun()
            return 0.0
        finally:
            del self._under_way[serial]
            self._poked.set()

    def _tell_adopted(self, ids: list[str]) -> None:
        """Say how many were taken over since it was said last; a wire that breaks all the time is no news each time."""
        self._adopted_unsaid += len(ids)
        extra: dict[str, object] = {"count": self._adopted_unsaid, "task_ids": " ".join(ids[:10])}
        if time.monotonic() - self._adopted_said_at < SAID_EVERY_S:
            log.debug("tasks.adopted", extra=extra)
            return
        self._adopted_unsaid, self._adopted_said_at = 0, time.monotonic()
        log.info("tasks.adopted", extra=extra)
