"""Tasks that came too late: the worker whose fetch ended them counts, notes and signals them."""

from __future__ import annotations

from typing import Final

import pytest

from stem.contracts import NewTask
from stem.messages.envelope import Envelope, new_task_id
from stem.messages.event import Event
from stem.messages.status import TaskState
from stem.signals import StemSignals, TaskExpired
from stem.signing import PayloadSigner
from tests.waiting import eventually
from tests.worker.conftest import House

HEADERS: Final = {"traceparent": "00-1"}
META: Final = {"tenant": "acme"}


def late(task_id: str | None = None, *, body: bytes | None = None, signature: bytes = b"") -> NewTask:
    """Return a task whose time was over long ago."""
    task_id = task_id or new_task_id()
    if body is None:
        body = Envelope(id=task_id, task="report", headers=HEADERS, meta=META).encode()
    return NewTask(id=task_id, task="report", queue="default", body=body, signature=signature, expires_ms=1)


def listen() -> list[TaskExpired]:
    seen: list[TaskExpired] = []
    StemSignals.on_task_expired(lambda event, context: seen.append(event))
    return seen


async def test_an_expired_task_is_signalled_with_its_headers_and_counted(house: House) -> None:
    """Once, on the worker that asked for work, though no handler is registered there: none would have run."""
    seen = listen()
    task = late()
    await house.broker.enqueue([task])

    worker = await house.worker()
    await eventually(lambda: seen)
    status = await house.stem.wait_for(task.id, timeout=10)

    assert status.state is TaskState.EXPIRED
    assert seen == [
        TaskExpired(
            id=task.id,
            task="report",
            queue="default",
            worker=worker.id,
            worker_name=worker.name,
            headers=HEADERS,
            meta=META,
        )
    ]
    counters = worker.stats()["counters"]
    assert (counters["expired"], counters["started"], counters["failed"]) == (1, 0, 0)


async def test_one_of_many_is_not_left_out(house: House) -> None:
    seen = listen()
    tasks = [late(f"t-{number}") for number in range(450)]
    await house.broker.enqueue(tasks)

    worker = await house.worker()
    await eventually(lambda: worker.stats()["counters"]["expired"] == 450)

    assert sorted(event.id for event in seen) == sorted(task.id for task in tasks)


@pytest.mark.parametrize(
    "body",
    [b"", b"\xc1\xff", Envelope(id="other", task="report", meta=META).encode()],
    ids=["empty", "garbage", "another task's"],
)
async def test_a_body_that_cannot_be_read_gives_empty_headers(house: House, body: bytes) -> None:
    """What is told of the task itself comes from its record."""
    seen = listen()
    task = late(body=body)
    await house.broker.enqueue([task])

    worker = await house.worker()
    await eventually(lambda: seen)

    assert [(event.id, event.task, event.headers, event.meta) for event in seen] == [(task.id, "report", {}, {})]
    assert worker.stats()["counters"]["expired"] == 1


async def test_nothing_of_a_forged_body_is_told(memory_house: House) -> None:
    """A worker that checks signatures takes no headers from a stranger, for a task that will not run neither."""
    seen = listen()
    signer = PayloadSigner({"k": b"k" * 32}, active="k")
    forged, signed = late("forged", signature=b"no"), late("signed")
    space = memory_house.broker.namespace
    signed = late("signed", signature=signer.sign("task", space, "default", signed.body))
    await memory_house.broker.enqueue([forged, signed])

    await memory_house.worker(signer=signer)
    await eventually(lambda: len(seen) == 2)

    assert {event.id: event.meta for event in seen} == {"forged": {}, "signed": META}


async def test_watchers_are_told(house: House) -> None:
    worker = await house.worker()
    cursor = await house.broker.events.tail()
    await house.broker.events.watch("me", for_ms=10_000)
    await eventually(lambda: worker._board.watched)
    task = late()
    await house.broker.enqueue([task])
    found: list[Event] = []

    async def seen() -> bool:
        nonlocal cursor
        batch = await house.broker.events.read(cursor, timeout_s=0.5)
        cursor = batch.cursor
        found.extend(event for event in batch.events if event.task_id == task.id)
        return bool(found)

    await eventually(seen)

    assert [(event.kind, event.task, event.queue, event.worker) for event in found] == [
        ("task.expired", "report", "default", worker.id)
    ]


async def test_a_receiver_that_fails_stops_nothing(memory_house: House) -> None:
    def bad(event: TaskExpired, context: object) -> None:
        raise ValueError("no")

    StemSignals.on_task_expired(bad, priority=1)
    seen = listen()
    await memory_house.broker.enqueue([late(), late()])

    worker = await memory_house.worker()
    await eventually(lambda: len(seen) == 2)

    assert worker.stats()["counters"]["expired"] == 2
