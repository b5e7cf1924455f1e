"""Keeps a `ClusterState` true: polls the broker once a second and follows its events by cursor. Knows contracts only.

A stalled reader is a late reader: nothing is pushed here, so nobody waits for us. The broker going away is a state to
show, never an error to raise: the picture stays, the connection says since when, and the retries are ours.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeVar

from stem.clock import BoottimeClock, Clock
from stem.contracts import Broker, ListState, QueueRow, TaskPage
from stem.errors import BrokerRefusedError, StemError, UnknownOutcomeError
from stem.messages.status import TaskStatus
from stem.observe.rates import MINUTES_KEPT
from stem.observe.snapshot import Snapshot
from stem.observe.state import ClusterState
from stem.text import clean

Phase = Literal["CONNECTING", "LIVE", "STALE", "DOWN", "FATAL", "RESYNC"]

STALE_S: Final = 2.0
LEASE_MS: Final = 15_000
_RENEW_S: Final = 5.0
_BACKOFF_S: Final = 0.5
# A picture is to be live again two seconds after the server answers: an attempt that began just before and is lost, the
# wait after it, the poll and the drawing fit in that.
_BACKOFF_MAX_S: Final = 0.8
_FATAL_S: Final = 1.5
_FATAL: Final = frozenset({"NOAUTH", "WRONGPASS", "NOPERM", "SCHEMA"})
"""Refusals that no waiting mends: somebody has to change a password, rights, or this program."""
_PROBE_S: Final = 0.8
_PROBE_MAX_S: Final = 7.0
_GATHER_S: Final = 0.015
"""Between two reads of events: each costs round trips, and the screen is drawn ten times a second at most."""
_AT_A_TIME: Final = 200
"""Events applied before others on the loop have their turn: a few milliseconds' worth."""
_HISTORY_S: Final = 3.0
_HISTORY_ALL: Final = 10_000
_HISTORY: Final = 300
_INFO_S: Final = 10.0
_PAGE: Final = 200
_PAGED_QUEUES: Final = 20
_COUNT: Final[Mapping[str, Callable[[QueueRow], int]]] = {
    "queued": lambda row: row.ready,
    "scheduled": lambda row: row.delayed,
    "retrying": lambda row: row.retrying,
    "held": lambda row: row.held,
    "running": lambda row: row.in_flight,
    "dead": lambda row: row.dead,
}
_DUE_IN: Final = frozenset({"scheduled", "retrying"})

T = TypeVar("T")


@dataclass(slots=True)
class Connection:
    """How the link to the broker is. Times are seconds of the feed's clock, which goes on while the machine sleeps.

    Attributes:
        phase: `DOWN` has no answer and tries again by itself; `FATAL` has one that no waiting mends (password, rights,
            a newer keyspace), and tries again all the same, since somebody may mend it.
        answered_s: of the last whole answer, None before the first; `answered_ms` is the same on the wall clock.
        retry: how many attempts failed in a row; `next_s` when the next one is.
        error: why, in clean words.
        pause_s: how long nothing is asked after an answer.
    """

    phase: Phase = "CONNECTING"
    since_s: float = 0.0
    answered_s: float | None = None
    answered_ms: int = 0
    rtt_ms: float = 0.0
    retry: int = 0
    next_s: float = 0.0
    error: str = ""
    pause_s: float = 1.0

    def shown(self, now_s: float) -> Phase:
        """Return the phase as it looks now: a live link whose answer is overdue is stale."""
        overdue = self.answered_s is not None and now_s - self.answered_s > self.pause_s + STALE_S
        return "STALE" if self.phase == "LIVE" and overdue else self.phase

    @property
    def up(self) -> bool:
        return self.phase == "LIVE"


async def take(
    broker: Broker,
    *,
    clock: Clock,
    pages: Collection[ListState] = (),
    minutes: int = 0,
    history: int = 0,
    info: bool = False,
    page: int = _PAGE,
) -> Snapshot:
    """Ask the broker for a snapshot; what it refuses is named in `refused`.

    Raises:
        BrokerError: queues or workers could not be had.
    """
    asked_ms, census, refused = clock.wall_ms(), broker.census, dict[str, str]()

    async def part(name: str, asked: Awaitable[T]) -> T | None:
        try:
            return await asked
        except BrokerRefusedError as error:
            refused[name] = clean(error)
            return None

    # One after the other: a dashboard needs one connection, and what it cannot have costs the rest nothing.
    workers = await broker.presence.workers()
    queues = await census.queues(workers=workers)
    pauses = await part("pauses", census.pauses())
    counted = await part("statistics", census.minutes(minutes)) if minutes else None
    final = await part("history", census.history(history)) if history else None
    about = await part("server", census.info()) if info else None
    lists: dict[ListState, TaskPage] = {}
    for state in sorted(pages):
        found = await part(f"{state} tasks", _page(broker, state, queues, page))
        if found is not None:
            lists[state] = found
    return Snapshot(
        asked_ms=asked_ms,
        queues=queues,
        workers=workers,
        pauses=pauses,
        minutes=counted,
        history=final,
        info=about,
        pages=lists,
        refused=refused,
    )


async def _page(broker: Broker, state: ListState, queues: Sequence[QueueRow], limit: int) -> TaskPage:
    """Return tasks of one state, some of each queue that has any: one long queue must not hide the others."""
    counted = sorted(((_COUNT[state](row), row.name, row.ready) for row in queues), reverse=True)
    # Those that are due count as ready, and are listed by the state that they have until somebody fetches them.
    busy = [(count, name) for count, name, ready in counted if count or (ready and state in _DUE_IN)]
    items: list[TaskStatus] = []
    cut = len(busy) > _PAGED_QUEUES
    for _, name in busy[:_PAGED_QUEUES]:
        found = await broker.census.tasks(state, queue=name, limit=limit)
        items.extend(found.items)
        cut = cut or found.next is not None
    return TaskPage(items=items, next="" if cut else None, total=sum(count for count, _ in busy))


class Feed:
    """Polls and follows until it is cancelled. Belongs to the event loop it runs on; so does the state it feeds.

    Attributes:
        pages: the lists of tasks on view, polled with the rest; not those of final states, history has them.
        events: False leaves the event stream alone (no watch lease: workers emit nothing for this watcher).
    """

    def __init__(
        self,
        broker: Broker,
        state: ClusterState,
        *,
        watcher: str,
        clock: Clock | None = None,
        interval_s: float = 1.0,
        events: bool = True,
    ) -> None:
        self.broker = broker
        self.state = state
        self.connection = Connection()
        self.pages: set[ListState] = {"running"}
        self.interval_s = interval_s
        self.events = events
        self.polls = 0
        self._watcher = watcher
        self._clock: Clock = clock or BoottimeClock()
        self._hurry = asyncio.Event()
        self._online = asyncio.Event()
        self._cursor: str | None = None
        self._history_due_s = self._info_due_s = 0.0
        self._history_whole = True
        self._rtts_ms = deque((0.0,), maxlen=3)

    async def run(self) -> None:
        """Keep the state true until cancelled; gives the watch lease back at the end."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._poll_for_ever())
                if self.events:
                    group.create_task(self._follow_for_ever())
        finally:
            if self.events and self._online.is_set():
                await self._leave()

    def hurry(self) -> None:
        """Poll now, or try the connection now."""
        self._hurry.set()

    # ----------------------------------------------------------------------------------------------------------- polls

    async def poll(self) -> None:
        """Take one snapshot and apply it.

        Raises:
            BrokerError: it could not be had; the state is as before.
        """
        now_s = self._clock.monotonic()
        link = self.connection
        away_s = now_s - link.answered_s if link.answered_s is not None else 0.0
        # Cut off or asleep for so long, nobody watched: what ended meanwhile is in the history alone.
        whole = self._history_whole or (away_s - link.pause_s) * 1000 > LEASE_MS
        self._history_whole = False
        history = whole or now_s >= self._history_due_s
        info = now_s >= self._info_due_s
        snapshot = await take(
            self.broker,
            clock=self._clock,
            # The first picture shows what failed before it: the errors stand with what waits or is dead.
            pages=set(self.pages) if self.polls else {*self.pages, "retrying", "dead"},
            minutes=MINUTES_KEPT if link.answered_s is None else min(MINUTES_KEPT, 2 + int(away_s // 60)),
            history=(_HISTORY_ALL if whole else _HISTORY) if history else 0,
            info=info,
        )
        done_s = self._clock.monotonic()
        if history:
            self._history_due_s = done_s + _HISTORY_S
        if info:
            self._info_due_s = done_s + _INFO_S
        await asyncio.sleep(0)  # the last page has just been read: what else is due has its turn before it is applied
        for _ in self.state.applying(snapshot, done_s):
            await asyncio.sleep(0)
        if link.phase != "LIVE":
            link.since_s = done_s
        link.phase, link.retry, link.error = "LIVE", 0, ""
        link.answered_s, link.answered_ms = done_s, self._clock.wall_ms()
        link.rtt_ms = (done_s - now_s) * 1000
        self.polls += 1

    async def _poll_for_ever(self) -> None:
        link = self.connection
        link.since_s = self._clock.monotonic()
        while True:
            try:
                if link.phase in ("DOWN", "FATAL"):
                    await self._resync()
                await self._guarded_poll()
            except StemError as error:
                await self._down(error)
                continue
            self._online.set()
            # A slow server is asked less often: at most a tenth of the time goes into polls. One slow answer (the first
            # one brings all there is) does not make it slow, and shall not leave an old picture standing.
            self._rtts_ms.append(link.rtt_ms)
            link.pause_s = max(self.interval_s, 9 * min(self._rtts_ms) / 1000)
            await self._pause(link.pause_s)

    async def _guarded_poll(self) -> None:
        """Poll; where no answer comes for two seconds, see whether anybody is there at all."""
        polling = asyncio.ensure_future(self.poll())
        try:
            while not (await asyncio.wait([polling], timeout=STALE_S))[0]:
                # On another connection: a long answer may be on its way on that one.
                await self._probe()
            await polling
        finally:
            if not polling.done():
                polling.cancel()
                await asyncio.gather(polling, return_exceptions=True)

    async def _probe(self) -> float:
        """Return how long the server has been up; 0 where it does not say.

        Raises:
            BrokerError: it does not answer, within about the time that it takes when all is well.
        """
        link = self.connection
        usual_s = 3 * min(self._rtts_ms) / 1000 if link.answered_s is not None else 1.0 + link.retry
        within_s = min(_PROBE_MAX_S, max(_PROBE_S, usual_s))
        try:
            async with asyncio.timeout(within_s):
                return (await self.broker.census.info()).uptime_s
        except BrokerRefusedError as error:
            if error.code in _FATAL - {"NOPERM"}:
                raise
            return 0.0  # not for our eyes, or not now: expect the worst of it
        except TimeoutError as error:
            raise UnknownOutcomeError(
                f"the broker at {self.broker.url} did not answer within {within_s:.1f} s"
            ) from error

    async def _resync(self) -> None:
        """See whether the broker answers again; then everything is read anew."""
        link = self.connection
        uptime_s = await self._probe()
        away_s = self._clock.monotonic() - (link.answered_s or link.since_s)
        if uptime_s <= away_s + 2:
            # Another life of the server: its event stream may have lost what our cursor points at.
            self._cursor = None
            if link.answered_s is not None:  # before the first answer there was nothing to miss
                self._missed()
        link.phase = "RESYNC"
        self._history_whole = True
        self._info_due_s = 0.0
        self.state.version += 1

    async def _down(self, error: StemError) -> None:
        link, now_s = self.connection, self._clock.monotonic()
        self._online.clear()
        if link.phase not in ("DOWN", "FATAL", "RESYNC"):
            link.since_s = now_s
        fatal = isinstance(error, BrokerRefusedError) and error.code in _FATAL
        link.phase, link.error = "FATAL" if fatal else "DOWN", clean(error, 300)
        wait_s = _FATAL_S if fatal else min(_BACKOFF_MAX_S, _BACKOFF_S * 2.0**link.retry) * random.uniform(0.75, 1.0)
        link.retry += 1
        link.next_s = now_s + wait_s
        self.state.version += 1
        await self._pause(wait_s)

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._hurry.wait()
        except TimeoutError:
            pass
        self._hurry.clear()

    # ---------------------------------------------------------------------------------------------------------- events

    async def _follow_for_ever(self) -> None:
        """Follow the events while the polls say that the broker is there; they own the word on the connection."""
        renew_s, lapses_s = 0.0, float("inf")
        while True:
            await self._online.wait()
            try:
                now_s = self._clock.monotonic()
                if now_s >= renew_s:
                    await self.broker.events.watch(self._watcher, for_ms=LEASE_MS)
                    if now_s > lapses_s:
                        # We stood still, or were cut off: for a while nobody watched, and workers told nothing.
                        self._missed()
                    renew_s, lapses_s = now_s + _RENEW_S, now_s + LEASE_MS / 1000
                if self._cursor is None:
                    self._cursor = await self.broker.events.tail()
                batch = await self.broker.events.read(self._cursor, timeout_s=1.0)
            except StemError as error:
                # Polls go on, so counts stay right; without events only the detail between two polls is missing.
                self.state.events_error = clean(error)
                renew_s = 0.0
                if not isinstance(error, BrokerRefusedError):
                    self.hurry()  # whoever waits for events hears first that the server has gone
                await asyncio.sleep(1.0)
                continue
            self._cursor, self.state.events_error = batch.cursor, ""
            if batch.missed:
                self._missed()
            for first in range(0, len(batch.events), _AT_A_TIME):
                self.state.apply_events(batch.events[first : first + _AT_A_TIME])
                await asyncio.sleep(0)
            if batch.events and self._now_ms() - batch.events[-1].at_ms < 1_000:
                await asyncio.sleep(_GATHER_S)

    def _missed(self) -> None:
        """Events are gone for good: say so, and read the history again."""
        self.state.gap(self._now_ms())
        self._history_whole = True

    def _now_ms(self) -> int:
        return self._clock.wall_ms() + self.state.offset_ms

    async def _leave(self) -> None:
        try:
            async with asyncio.timeout(1.0):
                await self.broker.events.unwatch(self._watcher)
        except (StemError, TimeoutError):
            pass  # the lease runs out by itself
