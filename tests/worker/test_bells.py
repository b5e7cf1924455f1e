"""What a worker makes of a bell that rings, and of answers that stay away, while an exchange is under way."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from stem.contracts import Exchange, FetchRequest, Settlement
from stem.errors import UnknownOutcomeError
from stem.task import TaskContext
from tests.waiting import eventually
from tests.worker.conftest import House
from tests.worker.handlers import on_loop


async def note(context: TaskContext, args: Mapping[str, Any]) -> str:
    return "noted"


async def test_a_bell_during_an_exchange_is_not_forgotten_for_its_answer(
    memory_house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer says that there was nothing; the bell rang after that was found out, and rings once."""
    house = memory_house
    go, held, answer = asyncio.Event(), asyncio.Event(), asyncio.Event()
    listening, bell = asyncio.Event(), asyncio.Event()
    rung: list[int] = []
    exchange = house.broker.exchange

    async def hold(worker: str, settlements: Sequence[Settlement], fetch: FetchRequest | None) -> Exchange:
        found = await exchange(worker, settlements, fetch)
        if settlements and fetch is not None and not held.is_set():
            held.set()
            await answer.wait()
        return found

    async def once(queues: Sequence[str], timeout_s: float) -> None:
        listening.set()
        await bell.wait()
        if rung:
            await asyncio.Event().wait()
        rung.append(1)

    monkeypatch.setattr(house.broker, "exchange", hold)
    monkeypatch.setattr(house.broker, "idle", once)

    async def ends(context: TaskContext, args: Mapping[str, Any]) -> None:
        await go.wait()

    on_loop(house.registry, "ends", ends)
    on_loop(house.registry, "note", note)
    first = await house.stem.enqueue("ends")
    worker = await house.worker()
    await asyncio.wait_for(listening.wait(), 5)
    assert (await house.stem.status(first)).state.value == "running"
    go.set()
    await asyncio.wait_for(held.wait(), 5)

    task_id = await house.stem.enqueue("note")
    bell.set()
    await eventually(lambda: not worker._intake._dry, what="the bell is heard")
    answer.set()

    assert (await house.stem.wait_for(task_id, timeout=5)).result == "noted"
    assert rung == [1]


async def test_outcomes_without_an_answer_are_sent_again_without_a_fetch(
    memory_house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Results and new tasks in one exchange may be too much for a link that could take each alone."""
    house = memory_house
    tries: list[bool] = []
    exchange = house.broker.exchange

    async def too_much(worker: str, settlements: Sequence[Settlement], fetch: FetchRequest | None) -> Exchange:
        if settlements:
            tries.append(fetch is not None)
            if fetch is not None:
                raise UnknownOutcomeError("no answer")
        return await exchange(worker, settlements, fetch)

    monkeypatch.setattr(house.broker, "exchange", too_much)
    on_loop(house.registry, "note", note)
    await house.worker()

    for _ in range(2):
        task_id = await house.stem.enqueue("note")
        assert (await house.stem.wait_for(task_id, timeout=5)).result == "noted"

    assert tries == [True, False] * 2
