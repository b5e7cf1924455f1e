"""The board that the work loop and the vitals thread share: which events it keeps."""

from __future__ import annotations

import time
from collections import Counter
from types import SimpleNamespace

import pytest

from stem.worker import board as module
from stem.worker.board import Board


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
