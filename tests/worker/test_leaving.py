"""What a worker leaves behind on the server when it is gone: nothing that would pile up."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import pytest

from stem.adapters.redis import RedisStreamsBroker
from stem.adapters.redis.presence import RedisPresence
from stem.contracts import Beat, BeatAnswer
from stem.errors import BodyTooLargeError, UnknownOutcomeError
from stem.messages.event import Event
from stem.task import TaskContext
from tests.servers import Server
from tests.waiting import eventually
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


async def test_a_worker_whose_goodbye_was_not_answered_leaves_all_the_same(
    redis_house: House, valkey_server: Server, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no later occasion: it would be listed as lost for an hour, and stay a consumer for as long."""
    lost: list[str] = []
    beat, leave = RedisPresence.beat, RedisStreamsBroker.leave

    async def beat_unheard(presence: RedisPresence, sent: Beat) -> BeatAnswer:
        answer = await beat(presence, sent)
        if sent.heartbeat.state == "stopped" and "beat" not in lost:
            lost.append("beat")
            raise UnknownOutcomeError("the answer was lost")
        return answer

    async def leave_unheard(broker: RedisStreamsBroker, worker: str, queues: Sequence[str]) -> None:
        if "leave" not in lost:
            lost.append("leave")
            raise UnknownOutcomeError("it never came, or its answer was lost")
        await leave(broker, worker, queues)

    monkeypatch.setattr(RedisPresence, "beat", beat_unheard)
    monkeypatch.setattr(RedisStreamsBroker, "leave", leave_unheard)
    on_loop(redis_house.registry, "note", note)
    worker = await redis_house.worker()
    assert (await redis_house.stem.wait_for(await redis_house.stem.enqueue("note"), timeout=10)).succeeded

    assert await worker.shutdown() == 0

    assert lost == ["beat", "leave"]
    assert valkey_server.command("XINFO", "CONSUMERS", f"{{{namespace}}}:q:default:p0", "stem") == []


async def test_more_events_than_may_leave_at_once_keep_no_worker_from_its_goodbye(house: House) -> None:
    worker = await house.worker()
    for _ in range(8_000):
        worker._board.note("task.failed", None, {"message": "x" * 200})

    assert await worker.shutdown() == 0

    assert [seen.stopped for seen in await house.broker.presence.workers()] == [True]


async def test_events_that_are_refused_break_neither_the_worker_nor_its_goodbye(
    memory_house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    refused: list[int] = []

    async def emit(self: object, events: Sequence[Event]) -> None:
        refused.append(len(events))
        raise BodyTooLargeError("too much at once")

    monkeypatch.setattr(type(memory_house.broker.events), "emit", emit)
    on_loop(memory_house.registry, "note", note)
    worker = await memory_house.worker()
    await memory_house.broker.events.watch("somebody", for_ms=60_000)
    await eventually(lambda: worker._board.watched, what="it is watched")
    for turn in range(3):
        await memory_house.stem.enqueue("note")
        await eventually(lambda turn=turn: len(refused) > turn, what="events that are refused")  # type: ignore[misc]
    worker._board.note("task.failed", None)

    assert await worker.shutdown() == 0

    assert "loop.died" not in caplog.text
    assert "no_goodbye" not in caplog.text
    assert [seen.stopped for seen in await memory_house.broker.presence.workers()] == [True]
