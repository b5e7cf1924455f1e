"""The promises to producers, on the broker in memory: what is refused, sent and batched, and what is heard of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from stem.adapters.memory import InMemoryBroker, InMemoryResultBackend
from stem.client import Stem
from stem.config import StemConfig
from stem.contracts import FetchRequest, Limits, Outcome, Settlement
from stem.control.controller import Controller
from stem.errors import (
    BodyTooLargeError,
    BrokerUnreachableError,
    InvalidArgumentsError,
    InvalidInputError,
    InvalidNameError,
    QueueFull,
    SignatureError,
    TaskConflictError,
    TaskNotFoundError,
    UnknownOutcomeError,
    UnknownTaskError,
    WaitTimeoutError,
)
from stem.messages.codec import pack
from stem.messages.command import Command
from stem.messages.envelope import Envelope
from stem.messages.status import TaskState, TaskStatus
from stem.options import TaskOptions
from stem.registry import SimpleTaskRegistry
from stem.signing import PayloadSigner
from stem.task import CURRENT, Signature, TaskContext
from tests.parts import CountingBroker, FakePort


@pytest.fixture
def broker() -> CountingBroker:
    return CountingBroker()


@pytest.fixture
async def stem(broker: CountingBroker) -> AsyncIterator[Stem]:
    async with Stem(broker=CountingBroker.typed(broker), patience=10) as app:
        yield app


async def envelope_of(broker: CountingBroker, task_id: str) -> Envelope:
    stored = await broker.inner.body(task_id)
    assert stored is not None
    return Envelope.decode(stored[0])


async def finish(broker: CountingBroker, task_id: str, *, queue: str = "default", result: Any = None) -> None:
    """Run one task as a worker would."""
    exchange = await broker.inner.exchange("w", [], FetchRequest(queues=[queue], count=100))
    tokens = {delivery.id: delivery.token for delivery in exchange.deliveries}
    settlement = Settlement(id=task_id, token=tokens[task_id], outcome=Outcome.SUCCEEDED, result=pack(result))
    await broker.inner.exchange("w", [settlement], None)


class EmailTask:
    name = "email.send"
    options = TaskOptions(queue="mail", priority=3, max_retries=7)

    async def __call__(self, context: TaskContext, args: Mapping[str, Any]) -> None: ...


# ------------------------------------------------------------------------------------------------------- what is sent


async def test_the_sample_of_the_user_works() -> None:
    registry = SimpleTaskRegistry()
    registry.register(EmailTask())
    broker = InMemoryBroker()
    stem = Stem(broker=broker, registry=registry, backend=InMemoryResultBackend(), signer=None)

    task_id = await stem.enqueue(
        "email.send", args={"to": "a@b.c"}, options=TaskOptions(queue="reports"), meta={"k": 1}
    )

    status = await stem.status(task_id)
    assert (status.state, status.task, status.queue, status.meta) == (
        TaskState.QUEUED,
        "email.send",
        "reports",
        {"k": 1},
    )


async def test_only_what_the_producer_set_travels(stem: Stem, broker: CountingBroker) -> None:
    stem.registry.register(EmailTask())

    task_id = await stem.enqueue("email.send", {"to": "x"}, options=TaskOptions(max_retries=1))

    envelope = await envelope_of(broker, task_id)
    assert (envelope.args, envelope.options) == ({"to": "x"}, {"max_retries": 1})
    status = await stem.status(task_id)
    assert (status.queue, status.priority) == ("mail", 3)


@pytest.mark.parametrize(
    ("enqueued", "handler", "default", "expected"),
    [
        (TaskOptions(queue="a"), EmailTask(), "c", "a"),
        (TaskOptions(), EmailTask(), "c", "mail"),
        (TaskOptions(), None, "c", "c"),
        (TaskOptions(), None, "default", "default"),
    ],
)
async def test_the_queue_comes_from_enqueue_then_the_handler_then_the_configuration(
    enqueued: TaskOptions, handler: EmailTask | None, default: str, expected: str
) -> None:
    stem = Stem(broker=InMemoryBroker(), config=StemConfig(default_queue=default))
    if handler is not None:
        stem.registry.register(handler)

    status = await stem.status(await stem.enqueue("email.send", options=enqueued))

    assert status.queue == expected


async def test_everything_said_arrives(stem: Stem, broker: CountingBroker) -> None:
    task_id = await stem.enqueue(
        "t",
        {"list": [1, {"deep": None}], "bytes": b"\0\xff", "text": "ü\0"},
        meta={"trace": "1"},
        headers={"x": "y"},
        delay=timedelta(seconds=60),
        expires=120,
        priority=9,
        unique_key="only/one",
        options=TaskOptions(visibility_timeout=7, queue="q"),
        task_id="chosen-id",
    )

    assert task_id == "chosen-id"
    envelope = await envelope_of(broker, task_id)
    assert envelope.args == {"list": [1, {"deep": None}], "bytes": b"\0\xff", "text": "ü\0"}
    assert (envelope.headers, envelope.meta) == ({"x": "y"}, {"trace": "1"})
    assert (envelope.delay_ms, envelope.eta_ms, envelope.expires_in_ms) == (60_000, None, 120_000)
    assert envelope.options == {"queue": "q", "lease_ms": 7000, "priority": 9, "unique_key": "only/one"}
    assert envelope.produced_at_ms == 0  # with an id of the caller's, a repeated call is the same body
    status = await stem.status(task_id)
    assert (status.state, status.priority) == (TaskState.SCHEDULED, 9)


async def test_moments_may_be_given_too(stem: Stem, broker: CountingBroker) -> None:
    eta = datetime.now(UTC) + timedelta(hours=1)

    task_id = await stem.enqueue("t", eta=eta, expires=eta + timedelta(hours=1))

    envelope = await envelope_of(broker, task_id)
    assert envelope.eta_ms == round(eta.timestamp() * 1000)
    assert envelope.expires_ms == round(eta.timestamp() * 1000) + 3_600_000
    assert envelope.delay_ms is None


async def test_a_moment_that_is_past_means_now(stem: Stem) -> None:
    task_id = await stem.enqueue("t", eta=datetime(1999, 1, 1, tzinfo=UTC))

    assert (await stem.status(task_id)).state is TaskState.QUEUED


async def test_bodies_are_signed_for_their_queue(broker: CountingBroker) -> None:
    signer = PayloadSigner({"k": bytes(32)}, active="k")
    stem = Stem(broker=CountingBroker.typed(broker), signer=signer)

    stored = await broker.inner.body(await stem.enqueue("t", options=TaskOptions(queue="q")))

    assert stored is not None
    signer.verify("task", "stem", "q", *stored)
    with pytest.raises(SignatureError):
        signer.verify("task", "stem", "other", *stored)


async def test_a_child_knows_its_parent_and_the_root_of_its_chain(stem: Stem, broker: CountingBroker) -> None:
    first = TaskContext(FakePort(), id="first", task="t", queue="q")
    second = TaskContext(FakePort(), id="second", task="t", queue="q", root="first", parent="first")

    by_hand = await envelope_of(broker, await stem.send(Signature(name="t"), origin=first))
    token = CURRENT.set(second)
    around = await envelope_of(broker, await stem.enqueue("t"))
    CURRENT.reset(token)
    alone = await envelope_of(broker, await stem.enqueue("t"))

    assert (by_hand.root, by_hand.parent) == ("first", "first")
    assert (around.root, around.parent) == ("first", "second")
    assert (alone.root, alone.parent) == (None, None)


# --------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ({"name": "unknown"}, UnknownTaskError),
        ({"name": "a b"}, InvalidNameError),
        ({"name": ""}, InvalidNameError),
        ({"name": 5}, InvalidNameError),
        ({"args": {"b": 1}}, InvalidArgumentsError),
        ({"args": {}}, InvalidArgumentsError),
        ({"args": [1]}, InvalidArgumentsError),
        ({"args": {1: 1}}, InvalidArgumentsError),
        ({"args": {"a": {1: 2}}}, InvalidArgumentsError),
        ({"args": {"a": [({b"k": 1},)]}}, InvalidArgumentsError),
        ({"args": {"a": object()}}, InvalidArgumentsError),
        ({"args": {"a": datetime.now(UTC)}}, InvalidArgumentsError),
        ({"args": {"a": 2**70}}, InvalidArgumentsError),
        ({"args": {"a": "\ud800"}}, InvalidArgumentsError),
        ({"args": {"a": {1, 2}}}, InvalidArgumentsError),
        ({"args": {"a": "x" * 2000}}, BodyTooLargeError),
        ({"meta": [1]}, InvalidInputError),
        ({"meta": {1: 1}}, InvalidArgumentsError),
        ({"headers": {"a": 1}}, InvalidInputError),
        ({"headers": "x"}, InvalidInputError),
        ({"delay": -1}, InvalidInputError),
        ({"delay": "5s"}, InvalidInputError),
        ({"delay": float("inf")}, InvalidInputError),
        ({"delay": 1, "eta": datetime.now(UTC)}, InvalidInputError),
        ({"eta": datetime(2030, 1, 1)}, InvalidInputError),
        ({"eta": 5}, InvalidInputError),
        ({"eta": datetime(9999, 1, 1, tzinfo=UTC)}, InvalidInputError),
        ({"expires": 0}, InvalidInputError),
        ({"expires": "soon"}, InvalidInputError),
        ({"priority": 10}, InvalidInputError),
        ({"priority": "high"}, InvalidInputError),
        ({"unique_key": "a b"}, InvalidNameError),
        ({"unique_key": ""}, InvalidNameError),
        ({"task_id": "a/b"}, InvalidNameError),
        ({"options": TaskOptions(retry_on=(OSError,))}, InvalidInputError),
    ],
)
async def test_bad_input_is_refused_before_anything_is_sent(
    broker: CountingBroker, call: dict[str, Any], error: type[Exception]
) -> None:
    stem = Stem(broker=CountingBroker.typed(broker), config=StemConfig(max_body=1500))

    @stem.task("known")
    def known(a: Any) -> None: ...

    with pytest.raises(error) as caught:
        await stem.enqueue(**{"name": "known", "args": {"a": 1}, **call})

    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400
    assert broker.batches == []


async def test_nesting_without_end_is_refused(stem: Stem, broker: CountingBroker) -> None:
    deep: list[Any] = []
    for _ in range(500):
        deep = [deep]
    loop: dict[str, Any] = {}
    loop["again"] = loop

    for value in (deep, loop):
        with pytest.raises(InvalidArgumentsError):
            await stem.enqueue("t", {"a": value})
    assert broker.batches == []


async def test_an_empty_registry_enqueues_by_name(stem: Stem) -> None:
    status = await stem.status(await stem.enqueue("anything.at/all:v1", {"x": 1}))

    assert status.task == "anything.at/all:v1"


async def test_a_handler_object_takes_any_arguments(stem: Stem) -> None:
    stem.registry.register(EmailTask())

    assert await stem.enqueue("email.send", {"anything": 1})


async def test_a_decorated_task_enqueues_itself(stem: Stem, broker: CountingBroker) -> None:
    @stem.task("report.build", max_retries=5)
    async def build(context: TaskContext, report_id: str, pages: int = 10) -> dict[str, int]:
        return {"pages": pages}

    envelope = await envelope_of(broker, await build.enqueue("monthly", pages=3))
    later = await envelope_of(broker, await build.with_options(delay=5).enqueue("monthly"))

    assert (envelope.task, envelope.args) == ("report.build", {"report_id": "monthly", "pages": 3})
    assert later.delay_ms == 5000


# ---------------------------------------------------------------------------------------------------------- answers


async def test_a_unique_key_gives_the_holders_id(stem: Stem) -> None:
    first = await stem.enqueue("t", unique_key="k")

    assert await stem.enqueue("t", unique_key="k") == first


async def test_the_same_id_and_body_is_the_same_task_and_another_body_a_conflict(
    stem: Stem, broker: CountingBroker
) -> None:
    await stem.enqueue("t", {"a": 1}, task_id="mine")

    with pytest.raises(TaskConflictError, match="mine is taken"):
        await stem.enqueue("t", {"a": 2}, task_id="mine")


async def test_with_its_own_id_the_order_of_keys_makes_no_other_task(stem: Stem, broker: CountingBroker) -> None:
    def reverse(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        return dict(reversed(pairs))

    for turn in (dict, reverse):
        inner = [turn([("x", 1), ("y", [turn([("p", None), ("q", b"")])])])]
        args = turn([("a", inner), ("b", 2)])
        headers, meta = turn([("h", "1"), ("i", "2")]), turn([("m", turn([("n", 1), ("o", 2)])), ("l", 3)])
        await stem.enqueue("t", args, headers=headers, meta=meta, task_id="mine")

    body = await envelope_of(broker, "mine")
    assert (body.args, body.headers, body.meta) == (args, headers, meta)


async def test_a_full_queue_refuses_those_over_its_limit() -> None:
    stem = Stem(broker=InMemoryBroker(limits=Limits(queue_length=2)))

    outcomes = await asyncio.gather(
        *(stem.enqueue("t", task_id=f"id-{number}") for number in range(4)), return_exceptions=True
    )

    assert outcomes[:2] == ["id-0", "id-1"]
    for number, outcome in enumerate(outcomes[2:], start=2):
        assert isinstance(outcome, QueueFull)
        assert (outcome.queue, outcome.refused) == ("default", (f"id-{number}",))


async def test_a_batch_says_which_of_it_a_full_queue_refused() -> None:
    stem = Stem(broker=InMemoryBroker(limits=Limits(queue_length=2)))
    requests = [Signature(name="t", task_id=f"id-{number}") for number in range(5)]

    with pytest.raises(QueueFull, match="3 of 5 tasks") as caught:
        await stem.enqueue_many(requests)

    assert caught.value.refused == ("id-2", "id-3", "id-4")
    assert (await stem.status("id-1")).state is TaskState.QUEUED


# ----------------------------------------------------------------------------------------------- waiting and looking


async def test_wait_for_returns_the_result_when_it_is_there(stem: Stem, broker: CountingBroker) -> None:
    task_id = await stem.enqueue("t")
    waiting = asyncio.create_task(stem.wait_for(task_id))
    await asyncio.sleep(0)

    await finish(broker, task_id, result={"n": 1})
    status = await asyncio.wait_for(waiting, 5)

    assert (status.state, status.result, status.succeeded) == (TaskState.SUCCEEDED, {"n": 1}, True)
    assert (await stem.wait_for(task_id, timeout=0)).result == {"n": 1}


async def test_wait_for_in_vain_says_where_the_task_is(stem: Stem) -> None:
    task_id = await stem.enqueue("slow.one")

    with pytest.raises(WaitTimeoutError, match=r"slow\.one.* still queued after 0\.05 s"):
        await stem.wait_for(task_id, timeout=timedelta(milliseconds=50))


async def test_a_cancelled_wait_leaves_the_task_and_nothing_else(stem: Stem) -> None:
    task_id = await stem.enqueue("t")
    before = asyncio.all_tasks()
    waiting = asyncio.create_task(stem.wait_for(task_id))
    await asyncio.sleep(0.01)
    waiting.cancel()

    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert asyncio.all_tasks() == before
    assert (await stem.status(task_id)).state is TaskState.QUEUED


async def test_nobody_knows_a_task_that_was_never_enqueued(stem: Stem) -> None:
    with pytest.raises(TaskNotFoundError, match="nope"):
        await stem.status("nope")
    with pytest.raises(TaskNotFoundError, match="nope"):
        await stem.wait_for("nope")
    with pytest.raises(InvalidNameError):
        await stem.status("no such\x1b id")


async def test_the_result_backend_is_asked_for_what_the_broker_has_forgotten(broker: CountingBroker) -> None:
    backend = InMemoryResultBackend()
    kept = TaskStatus(id="old", task="t", queue="q", state=TaskState.SUCCEEDED, result=5, token=1)
    await backend.store(kept, ttl_ms=60_000)
    stem = Stem(broker=CountingBroker.typed(broker), backend=backend)

    assert (await stem.status("old")).result == 5
    assert (await stem.wait_for("old")).result == 5
    with pytest.raises(TaskNotFoundError):
        await stem.status("older")


async def test_waiting_outlives_a_short_outage_and_gives_up_on_a_long_one(broker: CountingBroker) -> None:
    failures: list[Exception] = [BrokerUnreachableError("away"), UnknownOutcomeError("away")]
    real = broker.inner.wait

    async def flaky(task_id: str, timeout_s: float) -> TaskStatus | None:
        if failures:
            raise failures.pop(0)
        return await real(task_id, timeout_s)

    broker.inner.wait = flaky  # type: ignore[method-assign]  # a server that comes and goes
    stem = Stem(broker=CountingBroker.typed(broker), patience=0.1)
    task_id = await stem.enqueue("t")
    await finish(broker, task_id)

    assert (await stem.wait_for(task_id)).succeeded
    failures.extend(BrokerUnreachableError("away for long") for _ in range(1000))
    with pytest.raises(BrokerUnreachableError, match="away for long"):
        await stem.wait_for(task_id)
    with pytest.raises(WaitTimeoutError, match="could not be asked"):
        await stem.wait_for(task_id, timeout=0.02)


async def test_waiting_outlives_a_short_outage_of_the_result_backend_and_keeps_its_time(
    broker: CountingBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = InMemoryResultBackend()
    kept = TaskStatus(id="old", task="t", queue="q", state=TaskState.SUCCEEDED, result=5, token=1)
    await backend.store(kept, ttl_ms=60_000)
    failures: list[Exception] = [BrokerUnreachableError("away"), UnknownOutcomeError("away")]
    real = backend.get

    async def flaky(task_id: str) -> TaskStatus | None:
        if failures:
            raise failures.pop(0)
        return await real(task_id)

    async def hanging(task_id: str) -> TaskStatus | None:
        await asyncio.Event().wait()
        return None

    monkeypatch.setattr(backend, "get", flaky)
    stem = Stem(broker=CountingBroker.typed(broker), backend=backend, patience=0.1)

    assert (await stem.wait_for("old")).result == 5
    failures.extend(BrokerUnreachableError("away for long") for _ in range(1000))
    with pytest.raises(BrokerUnreachableError, match="away for long"):
        await stem.wait_for("old")
    monkeypatch.setattr(backend, "get", hanging)
    async with asyncio.timeout(5):
        with pytest.raises(WaitTimeoutError, match=r"could not be asked.*the result backend does not answer"):
            await stem.wait_for("old", timeout=0.02)


async def test_cancel_revokes_what_waits_and_remembers_what_is_unknown(stem: Stem) -> None:
    task_id = await stem.enqueue("t")

    item = await stem.cancel(task_id, reason="not needed")
    unknown = await stem.cancel("not-yet")
    await stem.enqueue("t", task_id="not-yet")

    assert (item.outcome, item.changed) == ("revoked", True)
    status = await stem.wait_for(task_id, timeout=1)
    assert (status.state, status.reason) == (TaskState.REVOKED, "not needed")
    assert unknown.outcome == "stored"
    assert (await stem.status("not-yet")).state is TaskState.REVOKED


WRONG: list[tuple[str, Any]] = [("reason", 5), ("reason", b"x"), ("terminate", 1), ("terminate", None)]


@pytest.mark.parametrize(("field", "value"), WRONG)
async def test_a_revoke_that_no_worker_could_read_is_refused_before_it_is_sent(
    stem: Stem, broker: CountingBroker, field: str, value: Any
) -> None:
    task_id = await stem.enqueue("t")

    with pytest.raises(InvalidInputError, match=field):
        await stem.cancel(task_id, **{field: value})
    with pytest.raises(InvalidInputError, match=field):
        await Controller(broker.inner).revoke([task_id], **{field: value})

    assert (await stem.status(task_id)).state is TaskState.QUEUED


async def test_no_reason_may_be_said_as_none(stem: Stem, broker: CountingBroker) -> None:
    first, second = await stem.enqueue("t"), await stem.enqueue("t")

    await stem.cancel(first, reason=None)
    await Controller(broker.inner).revoke([second], reason=None)  # type: ignore[arg-type]  # from untyped code

    logged = (await broker.inner.control.read(0)).log
    assert [Command.decode(each.command).reason for each in logged] == ["", ""]
