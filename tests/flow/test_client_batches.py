"""How tasks leave a producer: together, once, through outages, from any loop, with signals before and after."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from stem import outbox
from stem.adapters.memory import InMemoryBroker
from stem.client import Stem
from stem.contracts import Limits
from stem.errors import (
    BrokerRefusedError,
    BrokerUnreachableError,
    InvalidNameError,
    QueueFull,
    UnknownOutcomeError,
)
from stem.messages.envelope import Envelope
from stem.messages.status import TaskState
from stem.signals import AfterTaskPublish, BeforeTaskPublish, StemSignals
from stem.task import Signature
from tests.parts import CountingBroker
from tests.waiting import eventually


@pytest.fixture
def broker() -> CountingBroker:
    return CountingBroker()


@pytest.fixture
async def stem(broker: CountingBroker) -> AsyncIterator[Stem]:
    async with Stem(broker=CountingBroker.typed(broker), patience=10) as app:
        yield app


@pytest.fixture
async def hasty(broker: CountingBroker) -> AsyncIterator[Stem]:
    """A client that gives up soon."""
    async with Stem(broker=CountingBroker.typed(broker), patience=0.3) as app:
        yield app


async def envelope_of(broker: CountingBroker, task_id: str) -> Envelope:
    stored = await broker.inner.body(task_id)
    assert stored is not None
    return Envelope.decode(stored[0])


# ----------------------------------------------------------------------------------------------------- group commit


async def test_concurrent_enqueues_share_one_round_trip(stem: Stem, broker: CountingBroker) -> None:
    ids = await asyncio.gather(*(stem.enqueue("t", {"n": number}) for number in range(100)))

    assert broker.batches == [ids]


async def test_others_on_the_loop_go_on_while_many_are_made(stem: Stem, broker: CountingBroker) -> None:
    """A web server's requests do not wait for the ten thousand that one of them enqueues; nothing has left before."""
    turns = 0

    async def others() -> None:
        nonlocal turns
        while not broker.batches:
            turns += 1
            await asyncio.sleep(0)

    running = asyncio.create_task(others())
    ids = await stem.enqueue_many([("t", {"n": number}) for number in range(10_000)])
    await running

    assert turns >= 19
    assert [task_id for batch in broker.batches for task_id in batch] == ids


async def test_what_comes_during_a_round_trip_leaves_with_the_next_one(broker: CountingBroker) -> None:
    gate = asyncio.Event()
    real = broker.inner.enqueue

    async def slow(tasks: Any) -> Any:
        await gate.wait()
        return await real(tasks)

    broker.inner.enqueue = slow  # type: ignore[method-assign]  # a server that takes its time
    stem = Stem(broker=CountingBroker.typed(broker))
    first = asyncio.create_task(stem.enqueue("t"))
    await eventually(lambda: broker.batches)

    later = [asyncio.create_task(stem.enqueue("t")) for _ in range(50)]
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(first, *later)

    assert [len(batch) for batch in broker.batches] == [1, 50]


async def test_a_batch_has_at_most_500(stem: Stem, broker: CountingBroker) -> None:
    await asyncio.gather(*(stem.enqueue("t") for _ in range(1200)))

    assert [len(batch) for batch in broker.batches] == [500, 500, 200]


async def test_enqueue_many_keeps_the_order_and_is_one_round_trip_per_500(stem: Stem, broker: CountingBroker) -> None:
    ids = await stem.enqueue_many([("t", {"n": number}) for number in range(1001)])

    assert [len(batch) for batch in broker.batches] == [500, 500, 1]
    assert [each for batch in broker.batches for each in batch] == ids
    assert (await envelope_of(broker, ids[700])).args == {"n": 700}


async def test_large_bodies_leave_in_smaller_batches(stem: Stem, broker: CountingBroker) -> None:
    third = "x" * (outbox.BATCH_BYTES // 3)
    ids = await stem.enqueue_many([("t", {"n": n, "text": third if n < 5 else ""}) for n in range(9)])
    alone = await asyncio.gather(*(stem.enqueue("t", {"text": third}) for _ in range(3)))

    assert broker.batches == [ids[:2], ids[2:4], ids[4:], alone[:2], alone[2:]]


async def test_a_body_of_a_whole_batch_leaves_alone(stem: Stem, broker: CountingBroker) -> None:
    whole = "x" * (outbox.BATCH_BYTES - 150)
    ids = await stem.enqueue_many([("t", {}), ("t", {"text": whole}), ("t", {"text": whole}), ("t", {})])

    assert [len(batch) for batch in broker.batches] == [1, 1, 1, 1]
    assert [each for batch in broker.batches for each in batch] == ids


async def test_a_queue_of_batches_is_no_outage(broker: CountingBroker) -> None:
    """What waits for others to be answered is not given up, however long they take together."""
    real = broker.inner.enqueue

    async def slow(tasks: Any) -> Any:
        await asyncio.sleep(0.2)
        return await real(tasks)

    broker.inner.enqueue = slow  # type: ignore[method-assign]  # a server that takes its time
    async with Stem(broker=CountingBroker.typed(broker), patience=1.2) as stem:
        ids = await stem.enqueue_many([("t", {})] * 500 * 8)

    assert len(ids) == 4000
    assert [len(batch) for batch in broker.batches] == [500] * 8


async def test_enqueue_many_of_nothing_sends_nothing(stem: Stem, broker: CountingBroker) -> None:
    assert await stem.enqueue_many([]) == []
    assert broker.batches == []


async def test_one_bad_request_stops_the_whole_batch_before_it_is_sent(stem: Stem, broker: CountingBroker) -> None:
    with pytest.raises(InvalidNameError):
        await stem.enqueue_many([("good", {}), ("not good", {})])

    assert broker.batches == []


async def test_a_cancelled_caller_takes_its_task_back_and_harms_nobody(stem: Stem, broker: CountingBroker) -> None:
    calls = [asyncio.create_task(stem.enqueue("t", task_id=f"id-{number}")) for number in range(3)]
    await asyncio.sleep(0)
    calls[1].cancel()

    outcomes = await asyncio.gather(*calls, return_exceptions=True)

    assert outcomes[0] == "id-0"
    assert isinstance(outcomes[1], asyncio.CancelledError)
    assert outcomes[2] == "id-2"
    assert broker.batches == [["id-0", "id-2"]]


async def test_no_task_is_left_behind_on_the_loop(stem: Stem) -> None:
    before = asyncio.all_tasks()

    await asyncio.gather(*(stem.enqueue("t") for _ in range(10)))
    await asyncio.sleep(0)

    assert asyncio.all_tasks() == before


# ----------------------------------------------------------------------------------------------------------- outages


async def test_an_outage_shorter_than_the_patience_is_not_heard_of(stem: Stem, broker: CountingBroker) -> None:
    broker.failures = [BrokerUnreachableError("away"), UnknownOutcomeError("no answer"), BrokerUnreachableError("away")]

    task_id = await stem.enqueue("t")

    assert broker.batches == [[task_id]] * 4
    assert (await stem.status(task_id)).state is TaskState.QUEUED


async def test_a_lost_answer_enqueues_once(stem: Stem, broker: CountingBroker) -> None:
    broker.apply_first = True
    broker.failures = [UnknownOutcomeError("no answer")]

    task_id = await stem.enqueue("t")

    row = (await broker.inner.census.queues(["default"]))[0]
    assert (row.ready, row.enqueued_total) == (1, 1)
    assert broker.batches == [[task_id], [task_id]]


async def test_a_lost_answer_of_a_unique_task_gives_its_own_id(stem: Stem, broker: CountingBroker) -> None:
    broker.apply_first = True
    broker.failures = [UnknownOutcomeError("no answer")]

    assert await stem.enqueue("t", unique_key="k", task_id="mine") == "mine"


async def test_an_outage_past_the_patience_is_an_error_that_says_what_to_do(
    hasty: Stem, broker: CountingBroker
) -> None:
    broker.failures = [BrokerUnreachableError("connection refused") for _ in range(1000)]

    with pytest.raises(BrokerUnreachableError, match=r"id-1: not enqueued.*0\.3 s.*STEM_BROKER_URL"):
        await hasty.enqueue("t", task_id="id-1")

    assert 2 < len(broker.batches) < 40


async def test_one_unknown_try_makes_the_outcome_unknown(hasty: Stem, broker: CountingBroker) -> None:
    away: list[Exception] = [BrokerUnreachableError("connection refused") for _ in range(1000)]
    broker.failures = [UnknownOutcomeError("no answer"), *away]

    with pytest.raises(UnknownOutcomeError, match=r"id-1.*may or may not be enqueued.*same task_id"):
        await hasty.enqueue("t", task_id="id-1")


async def test_a_refusal_is_heard_at_once(stem: Stem, broker: CountingBroker) -> None:
    broker.failures = [BrokerRefusedError("out of memory", code="OOM")]

    with pytest.raises(BrokerRefusedError, match="out of memory"):
        await stem.enqueue("t")

    assert len(broker.batches) == 1


async def test_a_refusal_after_an_unknown_try_leaves_the_outcome_unknown(stem: Stem, broker: CountingBroker) -> None:
    """The first try was applied: "refused, nothing was applied" of the second one would be wrong of the task."""
    broker.apply_first = True
    refusal = BrokerRefusedError("out of memory", code="OOM")
    broker.failures = [UnknownOutcomeError("no answer"), refusal]

    with pytest.raises(
        UnknownOutcomeError, match=r"id-1: .*no answer.*out of memory.*may or may not.*same task_id"
    ) as it:
        await stem.enqueue("t", task_id="id-1")

    assert it.value.__cause__ is refusal
    assert (await stem.status("id-1")).state is TaskState.QUEUED


async def test_a_refusal_is_certain_for_those_who_came_after_the_unknown_try(broker: CountingBroker) -> None:
    """They were sent with the repetition only: what is unknown of the first one is certain of them."""
    broker.failures = [UnknownOutcomeError("no answer"), BrokerRefusedError("no rights", code="NOPERM")]
    async with Stem(broker=CountingBroker.typed(broker)) as stem:
        first = asyncio.create_task(stem.enqueue("t", task_id="first"))
        await eventually(lambda: broker.batches)
        later = asyncio.create_task(stem.enqueue("t", task_id="later"))

        outcomes = await asyncio.gather(first, later, return_exceptions=True)

    assert broker.batches == [["first"], ["first", "later"]]
    assert tuple(type(outcome) for outcome in outcomes) == (UnknownOutcomeError, BrokerRefusedError)


async def test_a_refusal_that_passes_is_waited_for(stem: Stem, broker: CountingBroker) -> None:
    broker.failures = [BrokerRefusedError("loading", code="LOADING"), BrokerRefusedError("disk", code="MISCONF")]

    assert await stem.enqueue("t")


async def test_callers_during_an_outage_gather_and_leave_together(
    broker: CountingBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "pause_s", lambda failures: 0.5)  # they are all there long before
    broker.failures = [BrokerUnreachableError("away")]
    async with Stem(broker=CountingBroker.typed(broker)) as stem:
        first = asyncio.create_task(stem.enqueue("t"))
        await eventually(lambda: broker.batches)

        await asyncio.gather(first, *(stem.enqueue("t") for _ in range(5)))

    assert [len(batch) for batch in broker.batches] == [1, 6]


async def test_a_broker_that_neither_answers_nor_fails_costs_no_more_than_the_patience(broker: CountingBroker) -> None:
    thaw = asyncio.Event()
    real = broker.inner.enqueue

    async def frozen(tasks: Any) -> Any:
        await thaw.wait()
        return await real(tasks)

    broker.inner.enqueue = frozen  # type: ignore[method-assign]  # a server that is frozen
    async with Stem(broker=CountingBroker.typed(broker), patience=1) as stem:
        first = asyncio.create_task(stem.enqueue("t", task_id="sent"))
        await eventually(lambda: broker.batches)
        second = asyncio.create_task(stem.enqueue("t", task_id="kept-back"))

        with pytest.raises(UnknownOutcomeError, match=r"sent: no answer"):
            await first
        with pytest.raises(BrokerUnreachableError, match=r"kept-back: not enqueued"):
            await second
        thaw.set()
        assert await stem.enqueue("t", task_id="after") == "after"

    assert broker.batches == [["sent"], ["after"]]


async def test_a_mistake_of_the_adapter_reaches_its_callers_and_the_next_ones_are_served(
    stem: Stem, broker: CountingBroker
) -> None:
    broker.failures = [RuntimeError("bug")]

    with pytest.raises(RuntimeError, match="bug"):
        await stem.enqueue("t")
    assert await stem.enqueue("t")


# ------------------------------------------------------------------------------------------------ some batches of many


@pytest.mark.parametrize(
    "error", [BrokerRefusedError("out of memory", code="OOM"), BrokerRefusedError("no rights", code="NOPERM")]
)
async def test_a_refusal_between_two_batches_says_what_is_enqueued(
    stem: Stem, broker: CountingBroker, monkeypatch: pytest.MonkeyPatch, error: BrokerRefusedError
) -> None:
    """ "Refused, nothing was applied" of the second batch would have the first one run twice."""
    fail_from(broker, monkeypatch, 2, error)
    seen: list[str] = []
    connection = StemSignals.on_after_task_publish(lambda event, context: seen.append(event.id))
    try:
        with pytest.raises(UnknownOutcomeError, match=rf"^500 of 700 tasks are enqueued.*{error}") as it:
            await stem.enqueue_many([("t", {"n": number}) for number in range(700)])
    finally:
        connection.disconnect()

    assert list(it.value.enqueued) == broker.batches[0] == seen
    assert it.value.__cause__ is error
    assert (await stem.status(it.value.enqueued[499])).state is TaskState.QUEUED


async def test_an_outage_between_two_batches_says_what_is_enqueued(
    hasty: Stem, broker: CountingBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And so of a batch that ends at a megabyte."""
    fail_from(broker, monkeypatch, 2, BrokerUnreachableError("connection refused"))
    third = "x" * (outbox.BATCH_BYTES // 3)

    with pytest.raises(UnknownOutcomeError, match=r"2 of 3 tasks are enqueued.*connection refused") as it:
        await hasty.enqueue_many([Signature(name="t", args={"text": third}, task_id=f"id-{n}") for n in range(3)])

    assert it.value.enqueued == ("id-0", "id-1")
    assert isinstance(it.value.__cause__, BrokerUnreachableError)


async def test_what_was_refused_as_full_is_not_told_as_enqueued(monkeypatch: pytest.MonkeyPatch) -> None:
    broker = CountingBroker(InMemoryBroker(limits=Limits(queue_length=3)))
    fail_from(broker, monkeypatch, 2, BrokerRefusedError("out of memory", code="OOM"))
    async with Stem(broker=CountingBroker.typed(broker)) as stem:
        with pytest.raises(UnknownOutcomeError, match=r"^3 of 600") as it:
            await stem.enqueue_many([Signature(name="t", task_id=f"id-{number}") for number in range(600)])
        with pytest.raises(BrokerRefusedError, match="out of memory"):
            await stem.enqueue_many([("t", {})] * 600)

    assert it.value.enqueued == ("id-0", "id-1", "id-2")


async def test_where_no_batch_was_taken_the_refusal_is_the_whole_truth(
    stem: Stem, broker: CountingBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusal = BrokerRefusedError("out of memory", code="OOM")
    fail_from(broker, monkeypatch, 1, refusal)

    with pytest.raises(BrokerRefusedError) as it:
        await stem.enqueue_many([("t", {})] * 700)

    assert it.value is refusal


async def test_one_unknown_batch_makes_the_refusal_of_another_no_answer_for_all(
    stem: Stem, broker: CountingBroker
) -> None:
    """The second batch may be enqueued, though the first one is not."""
    broker.failures = [
        BrokerRefusedError("out of memory", code="OOM"),
        UnknownOutcomeError("no answer"),
        BrokerRefusedError("out of memory", code="OOM"),
    ]

    with pytest.raises(UnknownOutcomeError, match="no answer") as it:
        await stem.enqueue_many([("t", {})] * 700)

    assert it.value.enqueued == ()


def fail_from(broker: CountingBroker, monkeypatch: pytest.MonkeyPatch, call: int, error: Exception) -> None:
    """Let each call of `enqueue` fail from this one (from 1) on."""
    real = broker.inner.enqueue

    async def enqueue(tasks: Any) -> Any:
        if len(broker.batches) >= call:
            raise error
        return await real(tasks)

    monkeypatch.setattr(broker.inner, "enqueue", enqueue)


# ----------------------------------------------------------------------------------------------------------- signals


async def test_publish_signals_come_before_and_after(stem: Stem, broker: CountingBroker) -> None:
    seen: list[Any] = []

    async def before(event: BeforeTaskPublish, context: Any) -> None:
        assert broker.batches == []
        seen.append((event.id, event.task, event.queue, event.args, event.meta))

    def after(event: AfterTaskPublish, context: Any) -> None:
        assert context is stem
        seen.append((event.id, event.outcome))

    connections = [
        StemSignals.on_before_task_publish(before, task="t"),
        StemSignals.on_after_task_publish(after, task="t"),
    ]
    try:
        await stem.enqueue("t", {"a": 1}, meta={"m": 1}, task_id="id-1")
        await stem.enqueue_many([Signature(name="other")])
    finally:
        for connection in connections:
            connection.disconnect()

    assert seen == [("id-1", "t", "default", {"a": 1}, {"m": 1}), ("id-1", "queued")]


async def test_a_refused_task_has_no_signal_after_it() -> None:
    stem = Stem(broker=InMemoryBroker(limits=Limits(queue_length=1)))
    seen: list[str] = []
    connection = StemSignals.on_after_task_publish(lambda event, context: seen.append(event.requested_id))
    try:
        with pytest.raises(QueueFull):
            await stem.enqueue_many([Signature(name="t", task_id="id-1"), Signature(name="t", task_id="id-2")])
    finally:
        connection.disconnect()

    assert seen == ["id-1"]
