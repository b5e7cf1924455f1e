"""What one thread of a worker does in the very moment in which another one does what concerns the same job."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from typing import Any, Final
from unittest.mock import Mock

import pytest

from stem.contracts import Delivery, Outcome, Settlement
from stem.messages.status import TaskState
from stem.options import TaskOptions
from stem.task import TaskContext
from stem.worker import Worker, lifecycle, verdict
from stem.worker.board import Board
from stem.worker.executor.aio import AioExecutor
from stem.worker.job import Job, Stop
from tests.waiting import eventually
from tests.worker.conftest import House
from tests.worker.handlers import in_thread, on_loop

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


class Interrupted(dict[str, Job]):
    """Jobs, of which another thread puts something in the place of the one that was just looked at."""

    def __init__(self, job: Job, later: Job | None) -> None:
        super().__init__({job.id: job})
        self._later = later

    def get(self, key: str, default: Any = None) -> Any:
        found = self.pop(key, default)
        if self._later is not None:
            self[key] = self._later
        return found


@pytest.mark.parametrize("comes_again", [False, True])
def test_a_job_that_two_threads_take_off_is_taken_off_once(comes_again: bool) -> None:
    """A rescue takes off what the work loop is just taking off: that was a `KeyError`, and the worker ended with 70."""
    board = Board(queues=("q",), concurrency=1)
    delivery = Delivery(id="1", task="t", queue="q", priority=0, body=b"", attempt=0, token=1, lease_ms=1000)
    job, later = (Job(delivery, Mock(), confirmed_at=0.0) for _ in range(2))
    told: list[Job] = []
    board.awaited["1"] = told.append
    board.jobs = Interrupted(job, later if comes_again else None)

    board.remove(job)

    assert board.snapshot() == ([later] if comes_again else [])
    assert told == []


@pytest.fixture
async def unbegun(memory_house: House, monkeypatch: pytest.MonkeyPatch) -> tuple[Worker, Job]:
    """A worker and a job of it whose handler is ended by hand."""
    monkeypatch.setattr(AioExecutor, "start", lambda self, work: None)
    on_loop(memory_house.registry, "note", lambda context, args: asyncio.sleep(0))
    worker = await memory_house.worker()
    await memory_house.stem.enqueue("note")
    (job,) = await eventually(worker._board.snapshot)
    return worker, job


async def test_what_ends_while_a_rescue_gives_it_up_keeps_its_end(
    memory_house: House, unbegun: tuple[Worker, Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A finished task was handed back, and ran again."""
    worker, job = unbegun
    hand_back = verdict.hand_back

    def ends_meanwhile(delivery: Delivery, *, reason: str) -> Settlement:
        job.desk.succeeded(job, "done")
        return hand_back(delivery, reason=reason)

    monkeypatch.setattr(verdict, "hand_back", ends_meanwhile)

    left = await lifecycle.rescue(memory_house.broker, worker._board, worker.id, crashed=lambda job: False, timeout_s=5)

    status = await memory_house.stem.wait_for(job.id, timeout=10)
    assert (left, status.state, status.result) == (0, TaskState.SUCCEEDED, "done")
    assert not job.abandoned
    await eventually(lambda: worker._board.counters["succeeded"] == 1)
    assert worker._board.counters["handed_back"] == 0


async def test_what_a_rescue_gives_up_while_it_ends_stays_given_up(
    unbegun: tuple[Worker, Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, job = unbegun
    board, success = worker._board, verdict.success

    def given_up_meanwhile(*args: Any) -> Settlement:
        lifecycle._settlement(board, job, crashed=False)
        job.abandoned = False  # the other thread has not come to it yet
        return success(*args)

    monkeypatch.setattr(verdict, "success", given_up_meanwhile)

    job.desk.succeeded(job, "done")

    assert job.settlement is not None
    assert (job.settlement.outcome, job.how) == (Outcome.GIVE_BACK, "handed_back")
    assert len(worker._finisher) == 0
    assert board.slots_used == 0
