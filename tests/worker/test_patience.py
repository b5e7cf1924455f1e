"""Commands whose effect takes long or never comes: waited for no longer than anybody does, in no other's way."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

import pytest

from stem.control import responder
from stem.messages.command import Command, Reply, revoke_args
from stem.messages.envelope import new_task_id
from stem.task import TaskContext
from stem.worker import Worker
from tests.waiting import eventually
from tests.worker.conftest import House
from tests.worker.handlers import on_loop

MINUTE: Final = 60_000


class Stubborn:
    """A handler that takes no notice of a plain revoke."""

    def __init__(self) -> None:
        self.go = asyncio.Event()

    async def __call__(self, context: TaskContext, args: Mapping[str, Any]) -> None:
        await self.go.wait()


async def running(house: House) -> tuple[Stubborn, Worker, str]:
    """Start a worker with one task that goes on until it is let."""
    stubborn = Stubborn()
    on_loop(house.registry, "stubborn", stubborn)
    worker = await house.worker()
    task_id = await house.stem.enqueue("stubborn")
    await eventually(lambda: worker.stats()["in_flight"] == 1)
    return stubborn, worker, task_id


async def asked(house: House, kind: str, args: Mapping[str, Any], *, timeout_ms: int = MINUTE) -> Command:
    command = Command(id=new_task_id(), type=kind, args=args, timeout_ms=timeout_ms)
    await house.broker.control.issue(command)
    return command


async def first_reply(house: House, command: Command) -> Reply:
    return (await house.broker.control.replies(command.id, timeout_s=5))[0]


async def test_commands_that_wait_for_their_effect_keep_no_other_from_being_carried_out(
    memory_house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(responder, "MOST_AT_ONCE", 4)
    _, worker, task_id = await running(memory_house)
    for _ in range(8):
        revoke = await asked(memory_house, "revoke", revoke_args([task_id], terminate=False))
        assert (await first_reply(memory_house, revoke)).stage == "applied"

    ping = await first_reply(memory_house, await asked(memory_house, "ping", {}))
    shutdown = await first_reply(memory_house, await asked(memory_house, "shutdown", {"mode": "hard"}))

    assert (ping.ok, ping.error_code) == (True, "")
    assert (shutdown.ok, shutdown.error_code) == (True, "")
    await worker.wait()


async def test_the_effect_of_a_revoke_is_waited_for_as_long_as_its_replies_are_kept(
    memory_house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(responder, "KEEP_MS", 100)
    stubborn, worker, task_id = await running(memory_house)
    revoke = await asked(memory_house, "revoke", revoke_args([task_id], terminate=False), timeout_ms=100)
    await first_reply(memory_house, revoke)

    await eventually(lambda: not worker._vitals._responder._answers, 5)

    assert worker.stats()["in_flight"] == 1
    assert not worker._board.awaited
    stubborn.go.set()


async def test_more_than_may_wait_are_told_to_stop_all_the_same(
    memory_house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(responder, "MOST_WAITING", 0)
    _, worker, task_id = await running(memory_house)

    revoke = await asked(memory_house, "revoke", revoke_args([task_id], terminate=True))

    assert (await first_reply(memory_house, revoke)).stage == "applied"
    await eventually(lambda: worker.stats()["in_flight"] == 0)
    assert not worker._board.awaited


async def test_a_revoke_that_cannot_be_confirmed_in_time_ends_the_task_all_the_same(
    memory_house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(responder, "KEEP_MS", 50)
    _, worker, task_id = await running(memory_house)

    async def never(*, begun: bool = True) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(worker._vitals._steering, "barrier", never)
    revoke = await asked(memory_house, "revoke", revoke_args([task_id], terminate=True), timeout_ms=50)

    await eventually(lambda: worker.stats()["in_flight"] == 0)
    await eventually(lambda: not worker._vitals._responder._answers)
    replies = await memory_house.broker.control.replies(revoke.id, timeout_s=0)
    assert "applied" not in [reply.stage for reply in replies]


async def test_all_who_wait_for_one_task_are_told_of_its_end(memory_house: House) -> None:
    stubborn, worker, task_id = await running(memory_house)
    steering = worker._vitals._steering
    waits = [asyncio.create_task(steering.revoke([task_id, task_id], terminate=False)) for _ in range(2_000)]
    await asyncio.sleep(0)
    waits[0].cancel()
    await asyncio.wait(waits[:1])

    stubborn.go.set()

    assert await asyncio.gather(*waits[1:]) == [{task_id: "finished"}] * (len(waits) - 1)
    assert not worker._board.awaited


async def test_a_task_that_ended_before_it_was_told_leaves_nothing_behind(memory_house: House) -> None:
    worker = await memory_house.worker()

    ended = await worker._vitals._steering.revoke(["gone"], terminate=False)

    assert ended == {"gone": "not_running"}
    assert not worker._board.awaited
