"""Controller and worker together, on the memory adapter: what one promises the other keeps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from stem.adapters.memory import InMemoryBroker
from stem.client import Stem
from stem.control.controller import Controller
from stem.control.why import why
from stem.registry import SimpleTaskRegistry
from stem.task import TaskContext
from stem.worker.runtime import Worker
from tests.waiting import eventually


@dataclass
class Hold:
    """A handler that runs until it is let go; counts its starts."""

    name: str = "hold"
    started: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, context: TaskContext, args: Mapping[str, Any]) -> str:
        self.started += 1
        await self.gate.wait()
        return "done"


@dataclass
class Fleet:
    broker: InMemoryBroker
    stem: Stem
    worker: Worker
    hold: Hold
    controller: Controller


@pytest.fixture
async def fleet() -> AsyncIterator[Fleet]:
    broker = InMemoryBroker()
    registry = SimpleTaskRegistry()
    hold = Hold()
    registry.register(hold)
    worker = Worker(broker=broker, registry=registry, queue="default", concurrency=2, name="web")
    await worker.start()
    stem = Stem(broker, registry)
    yield Fleet(broker, stem, worker, hold, Controller(broker, actor="ann@h"))
    hold.gate.set()
    await worker.shutdown("hard")
    await stem.close()
    await broker.close()


async def test_a_worker_answers_a_ping_by_name(fleet: Fleet) -> None:
    result = await fleet.controller.ping(["web"])

    assert (result.expected, result.replied, list(result.silent)) == (1, 1, [])
    assert (result.workers[0].id, result.workers[0].diagnosis) == (fleet.worker.id, "healthy")


@pytest.mark.parametrize("what", ["active", "reserved", "revoked", "registered", "queues", "config", "stack"])
async def test_everything_can_be_inspected(fleet: Fleet, what: str) -> None:
    (answer,) = (await fleet.controller.inspect(what)).workers

    assert answer.ok
    assert answer.data


async def test_a_running_task_is_ended_and_the_caller_told_how(fleet: Fleet) -> None:
    task_id = await fleet.stem.enqueue("hold")
    await eventually(lambda: fleet.hold.started)

    result = await fleet.controller.revoke([task_id], terminate=True, wait_s=10)

    assert [(item.stage, item.outcome) for item in result.items] == [("effect", "cancelled")]
    assert (await fleet.stem.status(task_id)).state == "revoked"


async def test_nothing_starts_between_the_confirmation_of_a_pause_and_its_end(fleet: Fleet) -> None:
    result = await fleet.controller.pause("queue", ["default"], wait_s=10)
    task_id = await fleet.stem.enqueue("hold")

    found = await why(fleet.broker, fleet.controller, task_id)
    assert (result.applied, found.causes[0].code) == (1, "queue-paused")
    assert "ann@h" in found.verdict
    assert fleet.hold.started == 0

    await fleet.controller.resume("queue", ["default"])
    await eventually(lambda: fleet.hold.started)


async def test_a_drain_reaches_its_effect_when_nothing_is_in_flight(fleet: Fleet) -> None:
    await fleet.stem.enqueue("hold")
    await eventually(lambda: fleet.hold.started)

    early = await fleet.controller.drain(["web"], wait_s=0.3)
    fleet.hold.gate.set()
    result = await fleet.controller.drain(["web"], wait_s=10)

    assert (early.waited_out, early.items[0].stage) == (True, "applied")
    assert (result.waited_out, result.items[0].stage, result.items[0].changed) == (False, "effect", False)
    assert (await fleet.controller.ping()).workers[0].diagnosis == "draining"


async def test_a_task_name_that_nobody_registers_is_found_out(fleet: Fleet) -> None:
    blind = Stem(fleet.broker)
    task_id = await blind.enqueue("no.such", delay=60)

    found = await why(fleet.broker, fleet.controller, task_id)

    assert [cause.code for cause in found.causes] == ["scheduled", "unregistered"]


async def test_a_shutdown_is_over_when_the_worker_said_goodbye(fleet: Fleet) -> None:
    result = await fleet.controller.shutdown(mode="warm", wait_s=10)

    assert (result.expected, result.applied, result.items[0].stage) == (1, 1, "effect")
    again = await fleet.controller.ping()
    assert (again.expected, list(again.silent)) == (0, [])
