"""Tasks that came too late: a fetch ends them on its way, and this worker is the one that tells of it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

from stem.contracts import Expired
from stem.signals import StemSignals, TaskExpired
from stem.worker.board import Board
from stem.worker.reading import Reader

log = logging.getLogger("stem.worker")

IDS_SAID: Final = 10


class Expiry:
    """Counts, notes and signals what expired. Belongs to the work loop.

    The broker has recorded the end: there is no delivery, and nothing to settle.
    """

    def __init__(self, board: Board, reader: Reader, *, worker_id: str, worker_name: str) -> None:
        self._board = board
        self._reader = reader
        self._worker_id = worker_id
        self._worker_name = worker_name

    def tell(self, tasks: Sequence[Expired]) -> None:
        """Tell of what one fetch found."""
        board = self._board
        board.counters["expired"] += len(tasks)
        # One line for all of them: a backlog that nobody worked on for too long expires by the thousand.
        ids = " ".join(task.id for task in tasks[:IDS_SAID])
        log.info("tasks.expired", extra={"count": len(tasks), "task_ids": ids})
        for task in tasks:
            if board.watched and board.wants("task.expired"):
                board.note("task.expired", None, expired=task)
            if StemSignals.task_expired.wanted:
                StemSignals.task_expired.emit_nowait(self._event(task))

    def _event(self, task: Expired) -> TaskExpired:
        envelope = self._reader.told(task)
        return TaskExpired(
            id=task.id,
            task=task.task,
            queue=task.queue,
            worker=self._worker_id,
            worker_name=self._worker_name,
            attempt=task.attempt,
            headers={} if envelope is None else envelope.headers,
            meta={} if envelope is None else envelope.meta,
        )
