"""How much leaves at a time: of outcomes, and of what is rescued."""

from __future__ import annotations

from collections.abc import Sequence
from unittest.mock import Mock

from stem.adapters.memory import InMemoryBroker
from stem.contracts import Delivery, Exchange, FetchRequest, NewTask, Outcome, Settlement
from stem.worker.board import Board
from stem.worker.finisher import BATCH_BYTES, MAX_BATCH, Finisher
from stem.worker.job import Job
from stem.worker.lifecycle import rescue


def delivered(task_id: str) -> Delivery:
    return Delivery(id=task_id, task="t", queue="q", body=b"", token=1)


def ended(size: int, task_id: str = "a") -> Job:
    """Return a job that succeeded with a result of so many bytes."""
    job = Job(delivered(task_id), Mock(), confirmed_at=0.0)
    job.settlement = Settlement(id=task_id, token=1, outcome=Outcome.SUCCEEDED, result=bytes(size))
    return job


def finisher(*sizes: int) -> Finisher:
    made = Finisher(Board(queues=["q"], concurrency=1), None, worker_id="w")
    for size in sizes:
        made.add(ended(size))
    return made


def test_outcomes_leave_by_their_bytes_and_always_one() -> None:
    waiting = finisher(BATCH_BYTES + 1, BATCH_BYTES // 2, BATCH_BYTES // 2, 1)

    taken = []
    while jobs := waiting.take():
        taken.append(len(jobs))
        waiting.answered(jobs, ["applied"] * len(jobs))

    assert taken == [1, 2, 1]


def test_small_outcomes_leave_by_their_number() -> None:
    waiting = finisher(*[1] * (MAX_BATCH + 1))

    assert (len(waiting.take()), len(waiting.take())) == (MAX_BATCH, 1)


def test_all_lanes_together_carry_one_batch() -> None:
    waiting = finisher(BATCH_BYTES - 10, 5, 10, 1)
    first, second = waiting.take(), waiting.take()

    assert (len(first), len(second)) == (2, 0)
    assert (waiting.ready, len(waiting)) == (0, 2)

    waiting.restore(first)
    assert waiting.ready == 4
    assert waiting.take() == first

    waiting.answered(first, ["applied", "applied"])
    assert len(waiting.take()) == 2


async def test_what_is_rescued_leaves_in_parts_and_the_light_ones_first() -> None:
    """In two seconds a large result may not arrive; what is only to be handed back does."""
    sent: list[list[str]] = []

    class Listening(InMemoryBroker):
        async def exchange(
            self, worker: str, settlements: Sequence[Settlement], fetch: FetchRequest | None
        ) -> Exchange:
            sent.append([settlement.id for settlement in settlements])
            return await super().exchange(worker, settlements, fetch)

    broker = Listening()
    ids = ["big1", "big2", "big3", "runs1", "runs2"]
    await broker.enqueue([NewTask(id=one, task="t", queue="q", body=b"x") for one in ids])
    board = Board(queues=["q"], concurrency=5)
    deliveries = (await broker.exchange("w", [], FetchRequest(queues=["q"], count=5))).deliveries
    for delivery in deliveries:
        board.jobs[delivery.id] = job = Job(delivery, Mock(), confirmed_at=0.0)
        if delivery.id.startswith("big"):
            size = BATCH_BYTES // 2
            job.settlement = Settlement(id=job.id, token=1, outcome=Outcome.SUCCEEDED, result=bytes(size))
    sent.clear()

    left = await rescue(broker, board, "w", crashed=lambda job: False, timeout_s=5)

    assert left == 0
    assert sent == [["runs1", "runs2"], ["big1", "big2"], ["big3"]]
    assert board.counters["handed_back"] == 2
