"""A call of more than one script takes: when a later part fails, the whole was not refused."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from stem.adapters.redis import RedisStreamsBroker
from stem.contracts import Beat, Lease, Settlement
from stem.contracts import Outcome as End
from stem.errors import BrokerRefusedError, BrokerUnreachableError, UnknownOutcomeError
from stem.testing.case import QUEUE, Hand, new_task

IDS = [f"t-{number}" for number in range(501)]
TASKS = [new_task(task_id) for task_id in IDS]
ENDS = [Settlement(id=task_id, token=1, outcome=End.SUCCEEDED) for task_id in IDS]
LEASES = [Lease(id=task_id, token=1, lease_ms=30_000, queue=QUEUE) for task_id in IDS]

CALLS: dict[str, Callable[[RedisStreamsBroker], Awaitable[object]]] = {
    "enqueue": lambda broker: broker.enqueue(TASKS),
    "exchange": lambda broker: broker.exchange("w", ENDS, None),
    "beat": lambda broker: broker.presence.beat(Beat(heartbeat=Hand(broker=broker, id="w").heartbeat(), leases=LEASES)),
    "replay": lambda broker: broker.replay(IDS),
    "retry_now": lambda broker: broker.retry_now(IDS),
    "discard": lambda broker: broker.discard(QUEUE, IDS),
}
FAILURES = [BrokerUnreachableError("away"), BrokerRefusedError("full", code="OOM")]


@pytest.fixture
async def broker(valkey_url: str, namespace: str) -> AsyncIterator[RedisStreamsBroker]:
    made = RedisStreamsBroker(valkey_url, namespace=namespace)
    yield made
    await made.close()


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
async def test_what_fails_in_a_later_part_may_have_been_done(
    broker: RedisStreamsBroker,
    monkeypatch: pytest.MonkeyPatch,
    call: Callable[[RedisStreamsBroker], Awaitable[object]],
    failure: Exception,
) -> None:
    run, left = broker._client.run, [1]

    async def failing(name: str, *args: Any) -> Any:
        if not left:
            raise failure
        left.pop()
        return await run(name, *args)

    monkeypatch.setattr(broker._client, "run", failing)

    with pytest.raises(UnknownOutcomeError, match="in part") as caught:
        await call(broker)
    with pytest.raises(type(failure)) as first:  # and a first part is the whole of what was tried
        await call(broker)

    assert caught.value.__cause__ is failure
    assert first.value is failure


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
async def test_the_tasks_of_the_parts_that_were_taken_are_named(
    broker: RedisStreamsBroker, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    """By both handles."""
    handle = broker.blocking()
    here, there = broker._client.run, handle._run
    left = [1]

    def once(args: tuple[Any, ...]) -> tuple[Any, ...]:
        if not left:
            raise failure
        left.pop()
        return args

    async def run(*args: Any) -> Any:
        return await here(*once(args))

    monkeypatch.setattr(broker._client, "run", run)
    monkeypatch.setattr(handle, "_run", lambda *args: there(*once(args)))

    with pytest.raises(UnknownOutcomeError) as caught:
        await broker.enqueue(TASKS)
    assert list(caught.value.enqueued) == IDS[:500]
    left.append(1)
    with pytest.raises(UnknownOutcomeError) as caught:
        handle.enqueue(TASKS)
    assert list(caught.value.enqueued) == IDS[:500]
    with pytest.raises(type(failure)):
        handle.enqueue(TASKS)
    handle.close()
