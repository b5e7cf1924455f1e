"""A revoke that came first, as the worker tells it that settled another end: the task was revoked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from stem.contracts import Exchange, FetchRequest, Outcome, RevokeTasks, Settlement
from stem.messages.status import TaskState
from stem.signals import StemSignals, TaskRetry, TaskRevoked
from stem.task import TaskContext
from stem.testing.case import Operator
from tests.waiting import eventually
from tests.worker.conftest import House
from tests.worker.handlers import on_loop


async def failing(context: TaskContext, args: Mapping[str, Any]) -> None:
    context.retry(countdown=0)


async def test_a_retry_of_what_had_been_revoked_is_signalled_as_revoked(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, as the record has it; the worker counts no retry, and the handler does not run again."""
    revoked: list[TaskRevoked] = []
    retried: list[TaskRetry] = []
    StemSignals.on_task_revoked(lambda event, context: revoked.append(event))
    StemSignals.on_task_retry(lambda event, context: retried.append(event))
    on_loop(house.registry, "failing", failing)
    exchange = house.broker.exchange

    async def revoke_first(worker: str, settlements: Sequence[Settlement], fetch: FetchRequest | None) -> Exchange:
        for settlement in settlements:
            if settlement.outcome is Outcome.RETRY:
                await Operator(house.broker).issue("revoke", RevokeTasks(ids=[settlement.id]), reason="wrong file")
        return await exchange(worker, settlements, fetch)

    monkeypatch.setattr(house.broker, "exchange", revoke_first)
    worker = await house.worker()

    task_id = await house.stem.enqueue("failing")
    status = await house.stem.wait_for(task_id, timeout=10)
    await eventually(lambda: worker.stats()["in_flight"] == 0)

    assert (status.state, status.reason) == (TaskState.REVOKED, "wrong file")
    assert ([event.id for event in revoked], retried) == ([task_id], [])
    counters = worker.stats()["counters"]
    assert (counters["started"], counters["retried"], counters["revoked"]) == (1, 0, 1)
