"""From the vitals thread to the work loop: each order may be given from any thread, returns at once, and is carried out
when the loop gets to it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from stem.worker.board import Board
from stem.worker.dispatch import Dispatcher
from stem.worker.executor.processes import ProcessExecutor
from stem.worker.executor.threads import ThreadExecutor
from stem.worker.intake import Intake
from stem.worker.job import Job, Stop

GONE_S: Final = 1.0
"""How long a hard stop waits for killed children, so that nobody runs a task while its old run still does."""


class Orders:
    """What the vitals thread may ask of the work loop; implements `steering.WorkOrders`."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        dispatcher: Dispatcher,
        intake: Intake,
        board: Board,
        threads: ThreadExecutor,
        processes: ProcessExecutor,
    ) -> None:
        self._loop = loop
        self._dispatcher = dispatcher
        self._intake = intake
        self._board = board
        self._threads = threads
        self._processes = processes

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    @property
    def serial(self) -> int:
        return self._intake.serial

    def busy_before(self, serial: int) -> bool:
        return self._intake.busy_before(serial)

    def pools(self) -> Mapping[str, int]:
        return {
            "slots": self._board.concurrency,
            "slots_used": self._board.slots_used,
            "threads": self._threads.size,
            "waiting_for_thread": self._threads.waiting,
            "zombie_threads": self._board.zombies,
            "processes": self._processes.size,
            "processes_busy": self._processes.busy,
            "waiting_for_process": self._processes.waiting,
            **{f"children_{name}": count for name, count in self._processes.counters.items()},
        }

    def children(self) -> list[dict[str, Any]]:
        return self._processes.rows()

    def child_stacks(self) -> list[dict[str, Any]]:
        return self._processes.stacks()

    async def kill_children(self) -> None:
        """Kill every child process, and wait for a moment until all are gone. From any loop."""
        self._processes.kill_all()
        deadline = time.monotonic() + GONE_S
        # Their ends are seen by the work loop, which may stand still.
        while self._processes.alive() and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.005)

    def stop(self, job: Job, why: Stop) -> None:
        self._soon(self._dispatcher.stop, job, why)

    def lose(self, job: Job) -> None:
        self._soon(self._dispatcher.lose, job)

    def revoke(self, job: Job, *, terminate: bool) -> None:
        self._soon(lambda: self._dispatcher.revoke(job, terminate=terminate))

    def look_again(self) -> None:
        self._soon(self._intake.look_again)

    def adopt_soon(self) -> None:
        self._soon(self._intake.adopt_soon)

    def hand_back_unbegun(self) -> None:
        self._soon(self._dispatcher.hand_back_unbegun)
        self._soon(self._intake.changed)

    def stop_all(self) -> None:
        self._soon(self._stop_all)

    def _stop_all(self) -> None:
        self._dispatcher.hand_back_unbegun()
        for job in self._board.snapshot():
            self._dispatcher.stop(job, Stop.HAND_BACK)

    def _soon(self, function: Callable[..., Any], *args: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError:
            return  # the loop is closed: nothing runs on it any more
