"""What one thread of a worker does in the very moment in which another one does what concerns the same job."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, Final

import pytest

from stem.messages.status import TaskState
from stem.options import TaskOptions
from stem.task import TaskContext
from stem.worker.job import Job, Stop
from tests.waiting import eventually
from tests.worker.conftest import House
from tests.worker.handlers import in_thread


ENDS: Final = [
    (Stop.HAND_BACK, TaskState.SUCCEEDED, 1),
    (Stop.UNRENEWED, TaskState.SUCCEEDED, 1),
    (Stop.HARD_LIMIT, TaskState.FAILED, 0),
    (Stop.REVOKED, TaskState.REVOKED, 0),
]


@pytest.mark.parametrize(
    ("has_looked", "why", "end", "runs"),
    [
        *((has_looked, *each) for has_looked in (False, True) for each in ENDS),
        (False, Stop.SOFT_LIMIT, TaskState.SUCCEEDED, 1),  # what has not begun is not harmed by it
        (True, Stop.SOFT_LIMIT, TaskState.FAILED, 0),
    ],
)
async def test_a_stop_reaches_a_thread_on_its_way_to_the_handler(
    memory_house: House, monkeypatch: pytest.MonkeyPatch, has_looked: bool, why: Stop, end: TaskState, runs: int
) -> None:
    """It has left the waiting line and has not called the handler: the stop was lost, and the handler never told."""
    ran: list[int] = []
    stopped: list[Job] = []
    arrived, go = threading.Event(), threading.Event()
    begin = Job.begin

    def begin_slowly(self: Job) -> bool:
        if stopped:
            return begin(self)
        stopped.append(self)
        may = has_looked and begin(self)
        arrived.set()
        go.wait(10)
        return may or begin(self)

    def note(context: TaskContext, args: Mapping[str, Any]) -> None:
        ran.append(context.token)

    monkeypatch.setattr(Job, "begin", begin_slowly)
    in_thread(memory_house.registry, "note", note, TaskOptions(max_retries=0, time_limit=60))
    worker = await memory_house.worker()
    task_id = await memory_house.stem.enqueue("note")
    await eventually(arrived.is_set)

    worker._dispatcher.stop(stopped[0], why)
    go.set()

    status = await memory_house.stem.wait_for(task_id, timeout=10)
    assert (status.state, len(ran)) == (end, runs)
    assert stopped[0].delivery.token not in ran
    await eventually(lambda: worker.stats()["zombie_threads"] == 0 and worker._board.slots_used == 0)
