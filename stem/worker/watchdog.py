"""Watches the work loop and the leases from the vitals thread, by the monotonic clock."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final

from stem.worker.board import Board
from stem.worker.job import Job, Stop

log = logging.getLogger("stem.worker")

LOOK_EVERY_S: Final = 0.25
WEDGED_S: Final = 2.0
"""How long the work loop may stand still before it is called wedged."""
FROZEN_S: Final = 1.0
"""A gap in our own looks longer than this means that the whole process stood still."""


class Watchdog:
    """Stops what has lost its lease, and ends a worker whose loop stays wedged. Belongs to the vitals loop.

    Args:
        beat_soon: asks for a heartbeat now.
        stop: stops a job for this reason.
        give_up: called once, when the work loop has been wedged for too long.
        abandoned: called when the application has closed the work loop without stopping the worker.
    """

    def __init__(
        self,
        *,
        board: Board,
        wedged_timeout_s: float,
        beat_soon: Callable[[], None],
        stop: Callable[[Job, Stop], None],
        give_up: Callable[[float], Awaitable[None]],
        loop_closed: Callable[[], bool],
        abandoned: Callable[[], None],
    ) -> None:
        self._board = board
        self._wedged_timeout_s = wedged_timeout_s
        self._beat_soon = beat_soon
        self._stop = stop
        self._give_up = give_up
        self._loop_closed = loop_closed
        self._abandoned = abandoned
        self._looked_at = time.monotonic()
        self._thawed_at = time.monotonic()
        self._wedged = False

    async def run(self) -> None:
        self._looked_at = time.monotonic()
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            now = time.monotonic()
            if now - self._looked_at > FROZEN_S:
                # A SIGSTOP, a paused machine, or C code that held the GIL: our leases may be gone or may still hold.
                # The broker knows; ask before stopping anything, and do not hold the gap against the work loop.
                self._thawed_at = now
                self._beat_soon()
            self._looked_at = now
            if now - self._thawed_at > FROZEN_S:
                self._check_leases(now)
            if await self._check_loop(now):
                return

    def wedged(self) -> bool:
        """Say whether the work loop stands still now: not with the whole process, nor because it is closed."""
        now = time.monotonic()
        frozen = now - self._looked_at > FROZEN_S  # and not seen yet, if we have just thawed
        return not self._loop_closed() and not frozen and self._age_s(now) >= WEDGED_S

    def _check_leases(self, now: float) -> None:
        for job in self._board.snapshot():
            if job.settlement is None and not job.lost and job.unrenewed(now):
                job.lost = True
                log.warning(
                    "task.lease_unrenewed",
                    extra={
                        "task_id": job.id,
                        "task": job.delivery.task,
                        "queue": job.delivery.queue,
                        "hint": "no heartbeat got through for two thirds of the lease: the handler is stopped",
                    },
                )
                self._stop(job, Stop.UNRENEWED)

    async def _check_loop(self, now: float) -> bool:
        """Return whether the worker is given up: then nothing is left to look after."""
        if self._loop_closed():
            self._abandoned()
            return False
        age_s = self._age_s(now)
        if age_s < WEDGED_S:
            if self._wedged:
                self._wedged = False
                log.warning("worker.unwedged", extra={"hint": "the work loop runs again"})
            return False
        if not self._wedged:
            self._wedged = True
            log.warning(
                "worker.wedged",
                extra={
                    "loop_age_ms": round(age_s * 1000),
                    "hint": "a handler blocks the event loop; `stemctl inspect stack` shows where",
                },
            )
            self._beat_soon()
        if age_s <= self._limit_s():
            return False
        await self._give_up(age_s)
        return True

    def _age_s(self, now: float) -> float:
        """Return for how long the work loop has stood still while this thread went on."""
        return min(self._board.loop_age_s(), now - self._thawed_at)

    def _limit_s(self) -> float:
        """Return how long it may stand still: the longest hard limit of what runs on it, else the timeout."""
        limits = [
            self._wedged_timeout_s if job.plan is None or job.plan.hard_s is None else job.plan.hard_s
            for job in self._board.snapshot()
            if job.on_loop and job.settlement is None
        ]
        return max(limits, default=self._wedged_timeout_s)
