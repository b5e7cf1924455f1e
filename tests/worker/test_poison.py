"""The crash that is one too many, as the worker tells it that settled it: a failure, with the reason `poison`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from unittest.mock import Mock

import pytest

from stem.adapters.memory import InMemoryResultBackend
from stem.contracts import Delivery, Exchange, FetchRequest, Settlement
from stem.errors import UnknownOutcomeError
from stem.messages.status import TaskState
from stem.signals import StemSignals, TaskFailed
from stem.task import TaskContext
from stem.worker import verdict
from stem.worker.board import Board
from stem.worker.job import Job
from stem.worker.lifecycle import rescue
from tests.waiting import eventually
from tests.worker.conftest import House
from tests.worker.handlers import on_loop

CRASHES = 3


@pytest.fixture(autouse=True)
def failures_are_crashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A handler that raises is settled as one whose child process died, without the seconds that a child takes."""

    def crashed(delivery: Delivery, plan: object, error: BaseException, veil: object = None) -> Settlement:
        return verdict.crashed(delivery, error)

    monkeypatch.setattr(verdict, "failure", crashed)


async def deadly(context: TaskContext, args: Mapping[str, Any]) -> None:
    raise MemoryError("no more of it")


def listen() -> list[TaskFailed]:
    seen: list[TaskFailed] = []
    StemSignals.on_task_failed(lambda event, context: seen.append(event))
    return seen


async def test_a_task_that_is_buried_as_poison_is_signalled_as_failed(house: House) -> None:
    """Once, with what it crashed of; the crashes before gave it back."""
    seen = listen()
    on_loop(house.registry, "deadly", deadly)
    worker = await house.worker()

    task_id = await house.stem.enqueue("deadly", {}, headers={"traceparent": "00-1"})
    status = await house.stem.wait_for(task_id, timeout=10)
    await eventually(lambda: worker.stats()["in_flight"] == 0)

    assert (status.state, status.reason, status.crashes) == (TaskState.FAILED, "poison", CRASHES)
    assert [(event.id, event.reason, str(event.error), event.attempt) for event in seen] == [
        (task_id, "poison", "no more of it", 0)
    ]
    assert seen[0].headers == {"traceparent": "00-1"}
    counters = worker.stats()["counters"]
    assert (counters["started"], counters["handed_back"], counters["failed"]) == (CRASHES, CRASHES - 1, 1)


async def test_it_is_signalled_when_the_answer_got_lost(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = listen()
    on_loop(house.registry, "deadly", deadly)
    exchange = house.broker.exchange
    lost: list[str] = []

    async def lose_once(worker: str, settlements: Sequence[Settlement], fetch: FetchRequest | None) -> Exchange:
        answer = await exchange(worker, settlements, fetch)
        if "buried" in answer.settled and not lost:
            lost.extend(answer.settled)
            raise UnknownOutcomeError("the connection broke")
        return answer

    monkeypatch.setattr(house.broker, "exchange", lose_once)
    worker = await house.worker()

    await house.stem.wait_for(await house.stem.enqueue("deadly"), timeout=10)
    await eventually(lambda: worker.stats()["in_flight"] == 0)

    assert lost == ["buried"]
    assert [event.reason for event in seen] == ["poison"]
    assert worker.stats()["counters"]["failed"] == 1


async def test_watchers_and_a_backend_are_told_of_a_failure(memory_house: House) -> None:
    """What the event and the copy say is what the record says."""
    house, backend = memory_house, InMemoryResultBackend()
    on_loop(house.registry, "deadly", deadly)
    worker = await house.worker(backend=backend)
    cursor = await house.broker.events.tail()
    await house.broker.events.watch("me", for_ms=10_000)
    await eventually(lambda: worker._board.watched)
    kinds: list[str] = []

    task_id = await house.stem.enqueue("deadly")
    status = await house.stem.wait_for(task_id, timeout=10)

    async def seen() -> bool:
        nonlocal cursor
        batch = await house.broker.events.read(cursor, timeout_s=0.5)
        cursor = batch.cursor
        kinds.extend(event.kind for event in batch.events if event.task_id == task_id)
        return "task.failed" in kinds

    await eventually(seen)
    copy = await eventually(lambda: backend.get(task_id))
    assert [kind for kind in kinds if kind not in ("task.received", "task.started")] == [
        *["task.handed_back"] * (CRASHES - 1),
        "task.failed",
    ]
    assert copy is not None
    assert (copy.state, copy.reason, copy.crashes) == (status.state, status.reason, status.crashes)


async def test_what_is_buried_by_a_worker_that_stands_still_counts_as_failed(memory_house: House) -> None:
    """Its last thread settles what its loop does not; nothing is handed back then."""
    house = memory_house
    on_loop(house.registry, "deadly", deadly)
    task_id = await house.stem.enqueue("deadly")
    request = FetchRequest(queues=["default"], count=1)
    for _ in range(CRASHES - 1):
        (delivery,) = (await house.broker.exchange("w", [], request)).deliveries
        await house.broker.exchange("w", [verdict.crashed(delivery, MemoryError())], None)
    (delivery,) = (await house.broker.exchange("w", [], request)).deliveries
    board = Board(queues=["default"], concurrency=1)
    board.jobs[task_id] = Job(delivery, Mock(), confirmed_at=0.0)

    left = await rescue(house.broker, board, "w", crashed=lambda job: True, timeout_s=5)

    assert left == 0
    assert (board.counters["failed"], board.counters["handed_back"]) == (1, 0)
