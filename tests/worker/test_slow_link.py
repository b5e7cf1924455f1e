"""Workers whose link takes longer for a batch of large bodies than they wait for an answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from stem.adapters.redis import RedisStreamsBroker, client
from stem.messages.status import TaskState
from stem.task import TaskContext
from tests.faults.chaos import ChaosProxy
from tests.faults.rules import DOWN, UP, Fault
from tests.servers import Server
from tests.waiting import eventually
from tests.worker.conftest import House
from tests.worker.handlers import on_loop


@pytest.fixture
async def proxy(valkey_server: Server, tmp_path: Path) -> AsyncIterator[ChaosProxy]:
    async with ChaosProxy(valkey_server.url, tmp_path / "p") as proxy:
        yield proxy


@pytest.fixture
async def far(proxy: ChaosProxy, namespace: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    """A house behind the proxy, which waits for an answer for a second, not for seven."""
    monkeypatch.setattr(client, "REPLY_TIMEOUT_S", 1.0)
    house = House(RedisStreamsBroker(proxy.url, namespace=namespace))
    yield house
    await house.close()


@pytest.fixture
async def near(valkey_url: str, namespace: str) -> AsyncIterator[House]:
    house = House(RedisStreamsBroker(valkey_url, namespace=namespace))
    yield house
    await house.close()


async def where(context: TaskContext, args: Mapping[str, Any]) -> int:
    return len(args["data"])


async def test_a_batch_that_would_not_arrive_in_time_comes_in_parts(far: House, near: House, proxy: ChaosProxy) -> None:
    """3.2 MB at 2 MB/s take longer than the second that is waited; adopting all of them at once would, too."""
    on_loop(far.registry, "where", where)
    ids = await near.stem.enqueue_many([("where", {"data": bytes(400_000)})] * 8)

    with proxy.having(Fault(bytes_per_s=2_000_000, sides=DOWN)):
        await far.worker(concurrency=16, config={"visibility_timeout_s": 60.0})  # how long a lease holds is no matter
        statuses = [await near.stem.wait_for(task_id, timeout=15) for task_id in ids]

    assert [(status.state, status.token) for status in statuses] == [(TaskState.SUCCEEDED, 1)] * 8


async def test_what_does_not_arrive_at_all_moves_on_to_another_worker(
    far: House, near: House, proxy: ChaosProxy
) -> None:
    """Its worker lives, and asks for it again and again; that is no crash of the task, and keeps it for no longer."""
    on_loop(far.registry, "where", where)
    on_loop(near.registry, "where", where)
    with proxy.having(Fault(bytes_per_s=400_000, sides=DOWN)):
        slow = await far.worker(config={"visibility_timeout_s": 2.0})
        task_id = await near.stem.enqueue("where", {"data": bytes(800_000)})

        async def fetched() -> bool:
            return (await near.stem.status(task_id)).state is TaskState.RUNNING

        await eventually(fetched, what="the slow one has it")
        quick = await near.worker(config={"visibility_timeout_s": 2.0})
        status = await near.stem.wait_for(task_id, timeout=15)

    assert (status.result, status.worker, status.crashes) == (800_000, quick.id, 0)
    assert slow.stats()["counters"]["started"] == 0


async def test_results_that_would_not_arrive_together_leave_in_parts(
    far: House, near: House, proxy: ChaosProxy
) -> None:
    """6.4 MB at 2 MB/s take longer than the second that is waited, however often they are sent again."""
    ready = asyncio.Barrier(16)

    async def grow(context: TaskContext, args: Mapping[str, Any]) -> bytes:
        await ready.wait()
        return bytes(400_000)

    on_loop(far.registry, "grow", grow)
    ids = await near.stem.enqueue_many([("grow", {})] * 16)

    with proxy.having(Fault(bytes_per_s=2_000_000, sides=UP)):
        worker = await far.worker(concurrency=16, config={"visibility_timeout_s": 60.0})
        await eventually(lambda: worker.stats()["counters"]["succeeded"] == 16, 20, what="the worker knows of all ends")

    statuses = [await near.stem.status(task_id) for task_id in ids]
    assert [(status.state, status.token) for status in statuses] == [(TaskState.SUCCEEDED, 1)] * 16
