"""Handlers that were given up and have not ended: each keeps its slot, and together they may keep them all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from stem.worker.board import Board
from stem.worker.job import Job, Stop
from stem.worker.wheel import Wheel

PATIENCE_S: Final = 10.0
"""How long they may hold all slots, or all threads, before the worker leaves: some end a little late."""


class Zombies:
    """Belongs to the work loop.

    Args:
        threads: how many plain handlers may run.
        out_of_slots: called when nobody is left to run anything, or plain handlers.
    """

    def __init__(self, board: Board, wheel: Wheel, threads: int, out_of_slots: Callable[[], None]) -> None:
        self._board = board
        self._wheel = wheel
        self._threads = threads
        self._out_of_slots = out_of_slots
        self._jobs: set[Job] = set()

    def add(self, job: Job) -> None:
        """It was given up, and its handler goes on."""
        self._jobs.add(job)
        self._board.zombies = len(self._jobs)
        # Not those that only lost their lease in an outage: nothing says that they will not end.
        stuck = frozenset(each for each in self._jobs if each.stop in (Stop.HARD_LIMIT, Stop.REVOKED))
        if sum(each.threaded for each in stuck) >= self._threads or len(stuck) >= self._board.concurrency:
            self._wheel.after(PATIENCE_S, lambda: stuck <= self._jobs, self._out_of_slots)

    def remove(self, job: Job) -> None:
        """Its handler has ended after all, if it was one of them."""
        self._jobs.discard(job)
        self._board.zombies = len(self._jobs)
