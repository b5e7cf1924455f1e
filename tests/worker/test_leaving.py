"""What a worker leaves behind on the server when it is gone: nothing that would pile up."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from stem.adapters.redis import RedisStreamsBroker
from stem.task import TaskContext
from tests.servers import Server
from tests.worker.conftest import House
from tests.worker.handlers import on_loop


@pytest.fixture
async def redis_house(valkey_url: str, namespace: str) -> AsyncIterator[House]:
    house = House(RedisStreamsBroker(valkey_url, namespace=namespace))
    yield house
    await house.close()


async def note(context: TaskContext, args: Mapping[str, Any]) -> None:
    return None


async def test_a_worker_that_has_stopped_is_no_consumer_any_more(
    redis_house: House, valkey_server: Server, namespace: str
) -> None:
    """Each start is a consumer of its own name: left where they are, every sweep would walk over all that ever were."""
    on_loop(redis_house.registry, "note", note)
    worker = await redis_house.worker()
    assert (await redis_house.stem.wait_for(await redis_house.stem.enqueue("note"), timeout=10)).succeeded
    stream = f"{{{namespace}}}:q:default:p0"
    assert len(valkey_server.command("XINFO", "CONSUMERS", stream, "stem")) == 1

    assert await worker.shutdown() == 0

    assert valkey_server.command("XINFO", "CONSUMERS", stream, "stem") == []
