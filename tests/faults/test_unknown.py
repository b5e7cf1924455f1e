"""What a worker cannot run it gives back, attempt unchanged, and Stem says why it waits."""

from __future__ import annotations

import json
import signal

from stem.control.why import why
from stem.messages.status import TaskState, TaskStatus
from tests.faults.fleet import World
from tests.waiting import eventually


async def _given_back(world: World, task_id: str) -> TaskStatus:
    async def there() -> TaskStatus | None:
        status = await world.stem.status(task_id)
        returned = any(entry.event == "handed_back" for entry in status.timeline)
        return status if returned and status.state is TaskState.SCHEDULED else None

    status = await eventually(there, what="the task was given back")
    assert status is not None
    return status


async def test_an_unknown_name_is_given_back_and_why_says_so(world: World) -> None:
    worker = await world.worker("old")
    task_id = await world.enqueue("newer")

    status = await _given_back(world, task_id)
    explained = await why(world.broker, world.controller, task_id)
    code, out, err = await world.stemctl("why", task_id, "--json")

    assert (status.attempt, status.crashes) == (0, 0)
    assert "unregistered" in [cause.code for cause in explained.causes]
    assert "fault.newer" in " ".join([explained.verdict, *(cause.text for cause in explained.causes)])
    assert code == 0, err
    assert "unregistered" in [cause["code"] for cause in json.loads(out)["data"]["causes"]]
    assert "task.unknown" in worker.log()
    assert world.ledger.read().starts(task_id) == []


async def test_an_unknown_name_does_not_hold_up_the_others(world: World) -> None:
    await world.worker("old", concurrency=1)
    unknown = await world.enqueue_some(5, "newer", priority=9)
    others = await world.enqueue_some(20, "quick")

    await world.all_final(others)

    assert [status for status in await world.broker.statuses(unknown) if status is None or status.state.final] == []


async def test_a_newer_worker_runs_what_older_ones_gave_back(world: World) -> None:
    old = await world.worker("old")
    task_id = await world.enqueue("newer")
    await _given_back(world, task_id)

    newer = await world.worker("new", app="tests.faults.newer:app")
    old.send(signal.SIGTERM)
    assert await old.exit_code() == 0

    status = await world.reaches(task_id, TaskState.SUCCEEDED, timeout=20)
    assert (newer.id, 0) == (status.worker, status.attempt)
    world.ledger.read().check()
