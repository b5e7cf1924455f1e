"""The blocking client: the same promises as `Stem`, without a loop and without a thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from stem.adapters.memory import InMemoryBlockingBroker, InMemoryBroker
from stem.adapters.redis import RedisStreamsBroker
from stem.client import Stem
from stem.contracts import BlockingBroker, Enqueued, FetchRequest, Limits, NewTask, Outcome, Settlement
from stem.errors import (
    BrokerError,
    BrokerRefusedError,
    BrokerUnreachableError,
    ConfigError,
    InvalidArgumentsError,
    QueueFull,
    TaskConflictError,
    TaskNotFoundError,
    UnknownOutcomeError,
    UnknownTaskError,
    WaitTimeoutError,
)
from stem.messages.codec import pack
from stem.messages.envelope import Envelope
from stem.messages.status import TaskState
from stem.options import TaskOptions
from stem.signals import StemSignals
from stem.signing import PayloadSigner
from stem.sync import SyncStem
from stem.task import CURRENT, Signature, TaskContext
from tests.parts import FakePort


class Flaky:
    """A blocking broker that fails as it is told."""

    def __init__(self, inner: InMemoryBlockingBroker) -> None:
        self.inner = inner
        self.calls: list[int] = []
        self.failures: list[Exception] = []

    def enqueue(self, tasks: Sequence[NewTask]) -> list[Enqueued]:
        self.calls.append(len(tasks))
        if self.failures:
            raise self.failures.pop(0)
        return self.inner.enqueue(tasks)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


@pytest.fixture(params=["memory", "valkey"])
def sync(request: pytest.FixtureRequest) -> Iterator[SyncStem]:
    """A client on each adapter that is there, with no event loop around."""
    broker: BlockingBroker
    if request.param == "memory":
        broker = InMemoryBroker().blocking()
    else:
        url, namespace = request.getfixturevalue("valkey_url"), request.getfixturevalue("namespace")
        broker = RedisStreamsBroker(url, namespace=namespace).blocking()
    with SyncStem(broker) as client:
        yield client


def test_a_task_is_enqueued_looked_at_and_cancelled(sync: SyncStem) -> None:
    task_id = sync.enqueue("t", {"a": 1}, options=TaskOptions(queue="reports"), meta={"m": 1}, priority=4)

    status = sync.status(task_id)
    assert (status.state, status.queue, status.priority, status.meta) == (TaskState.QUEUED, "reports", 4, {"m": 1})
    item = sync.cancel(task_id, reason="not needed")
    assert (item.outcome, item.changed) == ("revoked", True)
    ended = sync.wait_for(task_id, timeout=5)
    assert (ended.state, ended.reason) == (TaskState.REVOKED, "not needed")


def test_many_tasks_are_enqueued_in_order(sync: SyncStem) -> None:
    ids = sync.enqueue_many([("t", {"n": number}) for number in range(1001)])

    assert len(set(ids)) == 1001
    assert sync.status(ids[1000]).state is TaskState.QUEUED


def test_waiting_in_vain_says_where_the_task_is(sync: SyncStem) -> None:
    with pytest.raises(WaitTimeoutError, match="still queued"):
        sync.wait_for(sync.enqueue("t"), timeout=0.05)
    with pytest.raises(TaskNotFoundError):
        sync.wait_for("never-enqueued")
    with pytest.raises(TaskNotFoundError):
        sync.status("never-enqueued")


def test_a_unique_key_and_a_chosen_id_work_too(sync: SyncStem) -> None:
    first = sync.enqueue("t", unique_key="k", task_id="mine")

    assert (first, sync.enqueue("t", unique_key="k")) == ("mine", "mine")


def test_an_id_may_be_sent_from_outside_and_from_inside_a_task(sync: SyncStem) -> None:
    """Who asks is no part of what is asked: a handler may repeat what a timer has sent."""
    outside = sync.enqueue("t", {"n": 1}, task_id="mine")

    token = CURRENT.set(TaskContext(FakePort(), id="running", task="t", queue="q"))
    try:
        inside = [sync.enqueue("t", {"n": 1}, task_id="mine")]
        inside += sync.enqueue_many([Signature(name="t", args={"n": 1}, task_id="mine")])
        with pytest.raises(TaskConflictError):
            sync.enqueue("t", {"n": 2}, task_id="mine")
    finally:
        CURRENT.reset(token)

    assert [outside, *inside] == ["mine"] * 3


def test_no_thread_and_no_loop_is_started(sync: SyncStem) -> None:
    before = threading.active_count()

    sync.enqueue("t")

    assert threading.active_count() == before
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()


def test_many_threads_may_use_one_client(sync: SyncStem) -> None:
    ids: list[str] = []

    def produce() -> None:
        ids.extend(sync.enqueue("t") for _ in range(25))

    threads = [threading.Thread(target=produce) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)

    assert len(set(ids)) == 100


async def test_a_wait_in_a_thread_ends_with_the_task() -> None:
    broker = InMemoryBroker()
    sync = SyncStem(broker.blocking())
    task_id = await asyncio.to_thread(sync.enqueue, "t")
    waiting = asyncio.create_task(asyncio.to_thread(sync.wait_for, task_id, 10))
    exchange = await broker.exchange("w", [], FetchRequest(queues=["default"], count=1))
    settlement = Settlement(
        id=task_id, token=exchange.deliveries[0].token, outcome=Outcome.SUCCEEDED, result=pack([1, 2])
    )

    await broker.exchange("w", [settlement], None)

    assert (await waiting).result == [1, 2]


def test_it_shares_the_tasks_of_an_application() -> None:
    broker = InMemoryBroker()
    signer = PayloadSigner({"k": bytes(32)}, active="k")
    app = Stem(broker=broker, signer=signer)

    @app.task("report.build", queue="slow")
    async def build(report_id: str, pages: int = 1) -> None: ...

    task_id = build.enqueue_blocking("x", pages=3)

    stored = asyncio.run(broker.body(task_id))
    assert stored is not None
    signer.verify("task", "stem", "slow", *stored)
    assert Envelope.decode(stored[0]).args == {"report_id": "x", "pages": 3}
    assert app.blocking() is app.blocking()
    with pytest.raises(UnknownTaskError):
        app.blocking().enqueue("other")
    with pytest.raises(InvalidArgumentsError):
        app.blocking().enqueue("report.build", {"pages": 1})


def test_a_full_queue_says_which_were_refused() -> None:
    sync = SyncStem(InMemoryBroker(limits=Limits(queue_length=1)).blocking())

    with pytest.raises(QueueFull) as caught:
        sync.enqueue_many([Signature(name="t", task_id="a"), Signature(name="t", task_id="b")])
    with pytest.raises(QueueFull):
        sync.enqueue("t")

    assert caught.value.refused == ("b",)


def flaky(patience: float = 10) -> tuple[Flaky, SyncStem]:
    broker = Flaky(InMemoryBroker().blocking())
    return broker, SyncStem(broker, patience=patience)


def test_an_outage_shorter_than_the_patience_is_not_heard_of() -> None:
    broker, sync = flaky()
    broker.failures = [BrokerUnreachableError("away"), UnknownOutcomeError("no answer")]

    assert sync.enqueue("t")
    assert broker.calls == [1, 1, 1]


def test_an_outage_past_the_patience_is_an_error_that_says_what_to_do() -> None:
    broker, sync = flaky(patience=0.2)
    broker.failures = [BrokerUnreachableError("away") for _ in range(1000)]
    with pytest.raises(BrokerUnreachableError, match=r"mine: not enqueued.*STEM_BROKER_URL"):
        sync.enqueue("t", task_id="mine")

    broker.failures[:0] = [UnknownOutcomeError("no answer")]
    with pytest.raises(UnknownOutcomeError, match="same task_id"):
        sync.enqueue("t", task_id="mine")

    broker.failures = [BrokerRefusedError("no rights", code="NOPERM")]
    with pytest.raises(BrokerRefusedError, match="no rights"):
        sync.enqueue("t")


def test_a_refusal_after_an_unknown_try_leaves_the_outcome_unknown() -> None:
    broker, sync = flaky()
    refusal = BrokerRefusedError("out of memory", code="OOM")
    broker.failures = [UnknownOutcomeError("no answer"), refusal]

    with pytest.raises(
        UnknownOutcomeError, match=r"mine: .*no answer.*out of memory.*may or may not.*same task_id"
    ) as it:
        sync.enqueue("t", task_id="mine")

    assert it.value.__cause__ is refusal


@pytest.mark.parametrize("error", [BrokerRefusedError("out of memory", code="OOM"), BrokerUnreachableError("away")])
def test_a_batch_that_fails_behind_another_says_what_is_enqueued(error: BrokerError) -> None:
    """And what is behind it is not sent: each batch would wait as long."""
    broker, sync = flaky(patience=0.01)
    real, sent, seen = broker.inner.enqueue, list[str](), list[str]()

    def enqueue(tasks: Sequence[NewTask]) -> list[Enqueued]:
        if sent:
            raise error
        sent.extend(task.id for task in tasks)
        return real(tasks)

    broker.inner.enqueue = enqueue  # type: ignore[method-assign]  # a server that fails after the first batch
    connection = StemSignals.on_after_task_publish(lambda event, context: seen.append(event.id))
    try:
        with pytest.raises(UnknownOutcomeError, match=rf"^500 of 1200 tasks are enqueued.*{error}") as it:
            sync.enqueue_many([("t", {"n": number}) for number in range(1200)])
    finally:
        connection.disconnect()

    assert list(it.value.enqueued) == sent == seen
    assert len(sent) == 500
    assert isinstance(it.value.__cause__, type(error))
    assert set(broker.calls) == {500}
    assert len(broker.calls) >= 2


def test_where_no_batch_was_taken_the_refusal_is_the_whole_truth() -> None:
    broker, sync = flaky()
    refusal = BrokerRefusedError("out of memory", code="OOM")
    broker.failures = [refusal]

    with pytest.raises(BrokerRefusedError) as it:
        sync.enqueue_many([("t", {})] * 700)

    assert it.value is refusal
    assert broker.calls == [500]


def test_publish_signals_are_emitted_without_a_loop() -> None:
    sync = SyncStem(InMemoryBroker().blocking())
    seen: list[tuple[str, str]] = []
    connections = [
        StemSignals.on_before_task_publish(lambda event, context: seen.append(("before", event.id))),
        StemSignals.on_after_task_publish(lambda event, context: seen.append((event.outcome, event.id))),
    ]
    try:
        sync.enqueue("t", task_id="a")
        sync.enqueue_many([Signature(name="t", task_id="b")])
    finally:
        for connection in connections:
            connection.disconnect()

    assert seen == [("before", "a"), ("queued", "a"), ("before", "b"), ("queued", "b")]


def test_a_broker_for_loops_is_refused_with_the_way_out() -> None:
    wrong: Any = InMemoryBroker()

    with pytest.raises(ConfigError, match=r"InMemoryBroker\(…\)\.blocking\(\)"):
        SyncStem(wrong)


def test_connect_makes_a_client_for_a_url() -> None:
    with SyncStem.connect("memory://sync", namespace="ns") as sync:
        task_id = sync.enqueue("t")

    assert SyncStem.connect("memory://sync", namespace="ns").status(task_id).id == task_id
