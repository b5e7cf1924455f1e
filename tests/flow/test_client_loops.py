"""An application on several event loops, and its end on each of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from stem.client import Stem
from stem.contracts import Enqueued, NewTask
from stem.errors import BrokerUnreachableError
from tests.parts import CountingBroker
from tests.waiting import eventually


@pytest.fixture
def broker() -> CountingBroker:
    return CountingBroker()


@pytest.fixture
async def stem(broker: CountingBroker) -> AsyncIterator[Stem]:
    async with Stem(broker=CountingBroker.typed(broker), patience=0.3) as app:
        yield app


def test_one_application_serves_several_event_loops(broker: CountingBroker) -> None:
    stem = Stem(broker=CountingBroker.typed(broker))

    first = asyncio.run(stem.enqueue("t"))
    second = asyncio.run(stem.enqueue("t"))
    third = asyncio.run(stem.status(first))

    assert third.id == first != second
    assert broker.clones == 2


def test_closing_closes_clones_and_leaves_the_given_broker_to_its_maker(broker: CountingBroker) -> None:
    stem = Stem(broker=CountingBroker.typed(broker))

    async def use(times: int) -> None:
        for _ in range(times):
            async with stem:
                await stem.enqueue("t")

    asyncio.run(use(2))
    assert broker.clones == 0, "the loop that had the given handle has it again"
    asyncio.run(use(1))

    assert not broker.closed
    assert broker.clones == 1, "it is open, with connections of the first loop"


async def test_close_waits_for_nothing_that_was_put_in_later(
    stem: Stem, broker: CountingBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two producers, one of whom always puts in while the other one's task is under way."""
    enqueue, asked, stop = broker.inner.enqueue, asyncio.Event(), asyncio.Event()

    async def slow(tasks: Sequence[NewTask]) -> list[Enqueued]:
        asked.set()
        await asyncio.sleep(0.002)
        return await enqueue(tasks)

    async def produce() -> int:
        done = 0
        while not stop.is_set():
            await stem.enqueue("t")
            done += 1
        return done

    monkeypatch.setattr(broker.inner, "enqueue", slow)
    producers = [asyncio.create_task(produce())]
    await asked.wait()
    producers.append(asyncio.create_task(produce()))
    await asyncio.sleep(0)
    last = asyncio.create_task(stem.enqueue("t", task_id="last"))
    await asyncio.sleep(0)

    try:
        async with asyncio.timeout(2):
            await stem.close()
        assert last.done()
    finally:
        stop.set()
        sent = await asyncio.gather(*producers)
    assert min(sent) > 0


async def test_close_sends_what_waits_and_can_be_called_twice(stem: Stem, broker: CountingBroker) -> None:
    sending = asyncio.create_task(stem.enqueue("t", task_id="late"))
    await asyncio.sleep(0)

    await stem.close()
    await stem.close()

    assert sending.done()
    assert await sending == "late"


def test_a_loop_that_ends_during_an_outage_leaves_no_complaint(broker: CountingBroker) -> None:
    broker.failures = [BrokerUnreachableError("away") for _ in range(1000)]
    stem = Stem(broker=CountingBroker.typed(broker), patience=60)

    async def give_up() -> None:
        sending = asyncio.create_task(stem.enqueue("t"))
        await eventually(lambda: broker.batches)
        assert not sending.done()

    asyncio.run(give_up())
