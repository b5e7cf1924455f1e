"""An event loop whose time is virtual and whose order is drawn from a seed: many processes on it, each of which can be
frozen, blocked in part, or killed between any two steps.

A *process* stands for an operating system process, a *lane* for one event loop in it (the work loop, the vitals
thread). What runs belongs to the lane of its context. Within a lane the order is asyncio's own, because code may rely
on it; between lanes it is shuffled.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import random
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final
from unittest import mock

START_MS: Final = 1_750_000_000_000
BUSY: Final = 50_000
"""Steps without any time passing, after which something runs in circles."""


class SimulationError(Exception):
    """The world itself came to a stop: nothing is left to run, or something runs in circles."""


class Process:
    """One simulated operating system process.

    Attributes:
        skew_ms: of its wall clock against the server's; `offset_s` of its monotonic clock against the loop's.
        fuse: steps until it is killed; None while nobody means to.
    """

    def __init__(self, name: str, *, skew_ms: int = 0, offset_s: float = 0.0) -> None:
        self.name = name
        self.skew_ms = skew_ms
        self.offset_s = offset_s
        self.dead = False
        self.frozen = False
        self.fuse: int | None = None
        self.burnt: Callable[[Process], None] = _nothing
        self.lanes: list[Lane] = []

    def lane(self, name: str) -> Lane:
        lane = Lane(f"{self.name}/{name}", self)
        self.lanes.append(lane)
        return lane


class Lane:
    """One event loop of a process. `blocked`: a handler holds it, while the others of its process go on."""

    __slots__ = ("blocked", "name", "parked", "process")

    def __init__(self, name: str, process: Process) -> None:
        self.name = name
        self.process = process
        self.blocked = False
        self.parked: list[asyncio.Handle] = []

    @property
    def held(self) -> bool:
        return self.blocked or self.process.frozen or self.process.dead

    def context(self) -> contextvars.Context:
        """Return a fresh context: what runs in it, and what that starts, belongs to this lane."""
        context = contextvars.copy_context()
        context.run(LANE.set, self)
        return context


LANE: contextvars.ContextVar[Lane] = contextvars.ContextVar("lane")


class SimLoop(asyncio.BaseEventLoop):
    """Runs what is ready in an order drawn from `rng`; when nothing is, jumps to the next timer."""

    _ready: deque[asyncio.Handle]
    _scheduled: list[Any]

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self._rng = rng
        self.now = 0.0
        self.steps = 0
        self._stood = 0

    def time(self) -> float:
        return self.now

    def release(self, process: Process) -> None:
        """Let go on what was parked while the process, or one of its lanes, stood still."""
        for lane in process.lanes:
            if not lane.held:
                self._ready.extend(lane.parked)
                lane.parked.clear()

    def _write_to_self(self) -> None:
        """Nobody sleeps in a selector here."""

    def _run_once(self) -> None:
        ready, scheduled = self._ready, self._scheduled
        while scheduled and scheduled[0]._cancelled:
            heapq.heappop(scheduled)._scheduled = False
        if not ready:
            if not scheduled:
                raise SimulationError("nothing is left to run, and somebody still waits")
            if scheduled[0]._when > self.now:
                self.now, self._stood = scheduled[0]._when, 0
        while scheduled and scheduled[0]._when <= self.now:
            timer = heapq.heappop(scheduled)
            timer._scheduled = False
            ready.append(timer)
        batch = list(ready)
        ready.clear()
        self._stood += len(batch)
        if self._stood > BUSY:
            raise SimulationError(
                f"something runs in circles: {BUSY} steps at {self.now:.3f} s, the next is {batch[0]!r}"
            )
        for handle, lane in self._mixed(batch):
            if lane is not None:
                if lane.held:
                    lane.parked.append(handle)
                    continue
                self._burn(lane.process)
                if lane.process.dead:
                    lane.parked.append(handle)
                    continue
            if not handle._cancelled:
                self.steps += 1
                handle._run()

    @staticmethod
    def _burn(process: Process) -> None:
        if process.fuse is not None:
            process.fuse -= 1
            if process.fuse <= 0:
                process.fuse = None
                process.dead = True
                process.burnt(process)

    def _mixed(self, batch: Sequence[asyncio.Handle]) -> Iterator[tuple[asyncio.Handle, Lane | None]]:
        """Yield the handles with their lanes: the order within each lane kept, between them at random."""
        lanes = [handle._context.get(LANE) for handle in batch]  # type: ignore[attr-defined]
        if len(batch) == 1 or all(lane is lanes[0] for lane in lanes):
            yield from zip(batch, lanes, strict=True)
            return
        queues: dict[Lane | None, deque[asyncio.Handle]] = {}
        for handle, lane in zip(batch, lanes, strict=True):
            queues.setdefault(lane, deque()).append(handle)
        self._rng.shuffle(lanes)
        for lane in lanes:
            yield queues[lane].popleft(), lane


@contextmanager
def virtual_time(loop: SimLoop) -> Iterator[None]:
    """Make `time.monotonic` and `time.time_ns` tell the loop's time, as the clocks of the asking process show it."""

    def monotonic() -> float:
        lane = LANE.get(None)
        return 1_000.0 + loop.now + (0.0 if lane is None else lane.process.offset_s)

    def time_ns() -> int:
        lane = LANE.get(None)
        skew_ms = 0 if lane is None else lane.process.skew_ms
        return (START_MS + skew_ms) * 1_000_000 + int(loop.now * 1_000_000_000)

    with mock.patch.object(time, "monotonic", monotonic), mock.patch.object(time, "time_ns", time_ns):
        yield


class ServerClock:
    """The broker's clock: virtual time without any skew. Implements `stem.clock.Clock`."""

    def __init__(self, loop: SimLoop) -> None:
        self._loop = loop

    def monotonic(self) -> float:
        return self._loop.now

    def wall_ms(self) -> int:
        return START_MS + int(self._loop.now * 1_000)


def _nothing(process: Process) -> None:
    return None
