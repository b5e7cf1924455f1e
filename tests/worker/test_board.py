"""The board that the work loop and the vitals thread share: which events it keeps, and how progress leaves."""

from __future__ import annotations

import time
from collections import Counter
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from stem.contracts import Delivery
from stem.worker import board as module
from stem.worker.board import PROGRESS_BYTES, Board
from stem.worker.job import Job


def test_events_above_the_limit_are_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes well has a limit of its own: it takes nothing from what does not."""
    monkeypatch.setattr(module, "ROUTINE_PER_SECOND", 10)
    monkeypatch.setattr(module, "OTHERS_PER_SECOND", 5)
    board = Board(queues=("q",), concurrency=1)
    now = [time.monotonic()]
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0], time_ns=time.time_ns))

    def happens(kind: str) -> None:
        if board.wants(kind):
            board.note(kind, None)

    for _ in range(25):
        for kind in ("task.received", "task.started", "task.succeeded"):
            happens(kind)
    for _ in range(4):
        for kind in ("task.failed", "task.progress"):
            happens(kind)
    now[0] += 0.9
    events = board.take_events()
    happens("task.started")
    assert board.take_events() == [], "the second is not over"
    now[0] += 0.2
    assert board.take_events() == []
    happens("task.started")

    events += board.take_events()
    kinds = Counter(event.kind for event in events)
    assert kinds == {
        "task.received": 4, "task.started": 4, "task.succeeded": 3,
        "task.failed": 3, "task.progress": 2, "events.sampled": 1,
    }  # fmt: skip
    assert (events[15].kind, events[15].detail) == ("events.sampled", {"skipped": 65 + 3 + 1, "routine": 65 + 1})
    assert [event.seq for event in events] == list(range(1, 18))


def told(board: Board, size: int, *ids: str) -> None:
    for task_id in ids:
        board.jobs[task_id] = Job(
            Delivery(id=task_id, task="t", queue="q", body=b"", token=1), Mock(), confirmed_at=0.0
        )
        board.progress[task_id] = bytes(size)


def test_progress_leaves_in_turn_however_often_one_is_told() -> None:
    board = Board(queues=["q"], concurrency=1)
    told(board, PROGRESS_BYTES // 2, "a", "b", "c")
    turns = []

    for _ in range(3):
        turns.append(list(board.take_progress(board.jobs)))
        told(board, PROGRESS_BYTES // 2, "a", "b", "c")

    assert turns == [["a", "b"], ["c", "a"], ["b", "a"]]


def test_one_progress_value_leaves_however_large() -> None:
    board = Board(queues=["q"], concurrency=1)
    told(board, PROGRESS_BYTES + 1, "a", "b")

    assert [list(board.take_progress(board.jobs)) for _ in range(3)] == [["a"], ["b"], []]


def test_progress_of_what_is_taken_off_is_forgotten() -> None:
    board = Board(queues=["q"], concurrency=1)
    told(board, 1, "a", "b")
    board.progress["gone"] = b"1"

    board.remove(board.jobs["a"])
    assert list(board.take_progress([])) == []

    assert list(board.progress) == ["b"]
