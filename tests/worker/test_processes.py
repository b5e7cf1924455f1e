"""Handlers in child processes: they run, see the same context, and end as handlers elsewhere do."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from stem.errors import ConfigError, HandlerError, UnknownTaskError
from stem.messages.status import TaskState
from stem.options import TaskOptions
from stem.registry import SimpleTaskRegistry
from stem.signals import StemSignals
from stem.worker import Worker, WorkerLifecycleConfig
from stem.worker.executor import processes
from tests.waiting import eventually
from tests.worker import isolated
from tests.worker.conftest import House

APP = "tests.worker.isolated:app"
WAIT_S = 60.0

pytestmark = pytest.mark.timeout(120)  # several interpreters start one after the other, and machines are slow


async def worker_of(house: House, **options: Any) -> Worker:
    """Start a worker that runs tasks in child processes."""
    for name in isolated.app.registry.names():
        if name not in house.registry:
            house.registry.register(isolated.app.registry.get(name).handler)
    chosen: dict[str, Any] = {"app": APP, "concurrency": 1}
    return await house.worker(**(chosen | options))


async def outcome(house: House, name: str, **args: Any) -> Any:
    """Run one task and return its final status."""
    return await house.stem.wait_for(await house.stem.enqueue(name, args), WAIT_S)


async def test_plain_and_async_handlers_run_in_a_child_with_a_group_of_its_own(house: House) -> None:
    await worker_of(house)

    plain = await outcome(house, "p.add", left=2, right=3)
    same_child = await outcome(house, "p.add_async", left=4, right=5)

    assert plain.result["sum"] == 5
    assert plain.result["parent"] == os.getpid()
    assert plain.result["pid"] == plain.result["group"] != os.getpid()
    assert same_child.result == {"sum": 9, "pid": plain.result["pid"], "attempt": 0}


async def test_the_context_in_a_child_says_what_it_says_elsewhere(house: House) -> None:
    worker = await worker_of(house)

    task_id = await house.stem.enqueue("p.context", {}, meta={"k": [1, None]}, headers={"h": "v"})
    status = await house.stem.wait_for(task_id, WAIT_S)

    assert status.result == {
        "id": task_id,
        "task": "p.context",
        "queue": "default",
        "attempt": 0,
        "token": 1,
        "max_retries": 3,
        "headers": {"h": "v"},
        "meta": {"k": [1, None]},
        "root": None,
        "parent": None,
        "worker": worker.id,
        "revoked": False,
        "lost": False,
    }


async def test_progress_and_lease_reach_the_worker(memory_house: House, tmp_path: Path) -> None:
    worker = await worker_of(memory_house)
    gate = tmp_path / "gate"

    task_id = await memory_house.stem.enqueue("p.halfway", {"path": str(gate)})
    await eventually(lambda: task_id in worker._board.jobs, WAIT_S)
    job = worker._board.jobs[task_id]
    await eventually(lambda: job.progress_value == {"at": "half"}, WAIT_S, what="progress has arrived")
    extended = job.extended_until
    gate.touch()
    status = await memory_house.stem.wait_for(task_id, WAIT_S)

    assert extended > job.started_at + 50
    assert status.state is TaskState.SUCCEEDED


async def test_what_a_handler_enqueues_is_its_child(memory_house: House) -> None:
    await worker_of(memory_house)

    parent = await outcome(memory_house, "p.parent")
    child = await memory_house.stem.wait_for("child-of-plain", WAIT_S)
    both = await outcome(memory_house, "p.parent_async")
    grandchild = await memory_house.stem.wait_for("child-2", WAIT_S)

    assert parent.result == "child-of-plain"
    assert child.result["parent"] == child.result["root"] == parent.id
    assert child.result["meta"] == {"from": "plain"}
    assert both.result == ["child-1", "child-2"]
    assert grandchild.result["parent"] == both.id


async def test_what_the_worker_does_not_enqueue_is_an_error_of_the_same_class(memory_house: House) -> None:
    await worker_of(memory_house)

    status = await outcome(memory_house, "p.refused")

    assert status.result.startswith(f"{UnknownTaskError.__name__}: no task named 'p.nobody'")


@pytest.mark.parametrize(
    ("name", "attempt", "result"), [("p.hopeful", 2, 2), ("p.later", 1, "the second time")], ids=["raise", "retry()"]
)
async def test_failures_are_retried(memory_house: House, name: str, attempt: int, result: object) -> None:
    await worker_of(memory_house)

    status = await outcome(memory_house, name)

    assert (status.state, status.attempt, status.result) == (TaskState.SUCCEEDED, attempt, result)


@pytest.mark.parametrize(
    ("name", "error", "reason"),
    [
        ("p.picky", "KeyError", "failed"),
        ("p.given_up", "KeyError", "failed"),
        ("p.reject", "Reject", "rejected"),
        ("p.unstorable", "InvalidArgumentsError", "failed"),
        ("p.hidden", "ConfigError", "failed"),
        ("p.quit", "SystemExit", "failed"),
        ("p.hungry", "MemoryError", "failed"),
        ("p.soft_raised", "SoftTimeLimitExceeded", "failed"),
    ],
)
async def test_what_is_not_retried_is_a_dead_letter_at_once(
    memory_house: House, name: str, error: str, reason: str
) -> None:
    await worker_of(memory_house)

    status = await outcome(memory_house, name)

    assert status.error is not None
    assert (status.state, status.error.type, status.reason) == (TaskState.FAILED, error, reason)
    assert status.attempt <= 1
    assert "Traceback" in status.error.traceback


@pytest.mark.parametrize("name", ["p.soft", "p.soft_async"])
async def test_a_handler_in_a_child_may_clean_up_at_its_soft_limit(memory_house: House, name: str) -> None:
    """Also a plain one that sleeps in one call of C code: a thread could not be woken there."""
    await worker_of(memory_house)

    status = await outcome(memory_house, name)

    assert status.result == "cleaned up"


async def test_the_workers_callbacks_see_tasks_of_children(memory_house: House) -> None:
    await worker_of(memory_house)
    seen: list[object] = []
    StemSignals.on_task_prerun(lambda event, context: seen.append(("prerun", event.task, context.id == event.id)))
    StemSignals.on_task_postrun(lambda event, context: seen.append(("postrun", event.outcome)))
    StemSignals.on_task_succeeded(lambda event, context: seen.append(("succeeded", event.result["sum"])))
    StemSignals.on_task_failed(lambda event, context: seen.append(("failed", event.error)))

    await outcome(memory_house, "p.add", left=1, right=1)
    await outcome(memory_house, "p.picky")
    await eventually(lambda: len(seen) == 6, WAIT_S)

    assert seen[:3] == [("prerun", "p.add", True), ("postrun", "succeeded"), ("succeeded", 2)]
    error = seen[5][1]  # type: ignore[index]  # the list is of tuples
    assert isinstance(error, HandlerError)
    assert (error.type, str(error)) == ("KeyError", "'not to be retried'")


async def test_as_many_children_as_slots_and_the_rest_waits(memory_house: House) -> None:
    worker = await worker_of(memory_house, concurrency=2)

    ids = [await memory_house.stem.enqueue("p.nap", {"seconds": 0.2}) for _ in range(6)]
    pids = [(await memory_house.stem.wait_for(each, WAIT_S)).result for each in ids]

    assert len(set(pids)) == 2
    assert worker._processes.counters["started"] == 2


async def test_a_row_says_in_which_kind_of_place_a_task_runs(memory_house: House, tmp_path: Path) -> None:
    worker = await worker_of(memory_house)
    gate = tmp_path / "gate"

    task_id = await memory_house.stem.enqueue("p.stuck", {"path": str(gate)})
    await eventually(lambda: any(job.began for job in worker._board.snapshot()), WAIT_S)
    answer = (await memory_house.controller.inspect("active")).workers[0].data
    gate.touch()
    await memory_house.stem.wait_for(task_id, WAIT_S)

    assert [row["isolation"] for row in answer["items"]] == ["process"]


async def test_a_producer_may_want_a_child_for_a_task_that_wants_none(memory_house: House) -> None:
    worker = await worker_of(memory_house)

    task_id = await memory_house.stem.enqueue("p.bare", {}, options=TaskOptions(isolation="process"))
    status = await memory_house.stem.wait_for(task_id, WAIT_S)

    assert status.result == "ran"
    assert worker._processes.counters["started"] == 1


async def test_a_worker_without_children_gives_such_a_task_back(memory_house: House) -> None:
    registry = SimpleTaskRegistry()
    registry.register(isolated.app.registry.get("p.bare").handler)
    worker = await memory_house.worker(registry=registry)

    task_id = await memory_house.stem.enqueue("p.bare", {}, options=TaskOptions(isolation="process"))
    await eventually(lambda: worker.stats()["counters"]["handed_back"], WAIT_S)
    status = await memory_house.stem.status(task_id)

    assert status.state in (TaskState.SCHEDULED, TaskState.QUEUED)
    assert status.attempt == 0


@pytest.mark.parametrize(
    ("app", "complaint"),
    [
        (None, r"give Worker\(app='package.module:attribute'\)"),
        ("__main__:app", "cannot import __main__"),
        ("tests.worker.sample:app", "has no such task"),
        ("tests.worker.nowhere:app", "there is no module tests.worker.nowhere"),
        ("no reference", "is no application"),
    ],
)
async def test_a_worker_whose_children_could_not_import_the_application_says_so(
    memory_house: House, app: str | None, complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        await worker_of(memory_house, app=app)


@pytest.mark.parametrize("options", [{"max_tasks_per_child": 0}, {"max_memory_per_child": 1.5}])
def test_limits_of_children_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="give a whole number of at least 1"):
        WorkerLifecycleConfig(**options)


async def test_work_is_failed_with_the_reason_when_no_child_can_start(memory_house: House, tmp_path: Path) -> None:
    """The worker could import the application, its children cannot."""
    worker = await worker_of(memory_house)
    worker._processes._hello = {"worker": worker.id, "name": worker.name, "path": [str(tmp_path)]}

    task_id = await memory_house.stem.enqueue("p.add", {"left": 1, "right": 1}, options=TaskOptions(max_retries=0))
    status = await memory_house.stem.wait_for(task_id, WAIT_S)

    assert status.state is TaskState.FAILED
    assert status.error is not None
    assert "no child process can start" in status.error.message
    assert worker._processes.counters["unusable"] >= 3


async def test_a_hidden_value_is_hidden_before_the_error_is_cut(memory_house: House) -> None:
    """The worker looked for it in what the child had cut, and did not find the half of it that was left."""
    await worker_of(memory_house)
    args = {"password": "hunter2-s3cr3t", "other": "0therw1se", "before": 1_990}

    task_id = await memory_house.stem.enqueue("p.tells", args, options=TaskOptions(redact=["other"]))
    error = (await memory_house.stem.wait_for(task_id, WAIT_S)).error

    assert error is not None
    assert error.message == "x" * 1_990 + "***" + "***"
    assert "hunter2" not in error.traceback
    assert "0therw1se" not in error.traceback


async def test_a_child_that_does_not_get_ready_is_one_that_cannot_start(
    memory_house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Isolated tasks waited for it without end, their leases renewed all the time."""
    monkeypatch.setattr(processes, "READY_WITHIN_S", 0.5)
    monkeypatch.setenv(isolated.HANGS, "yes")
    worker = await worker_of(memory_house)

    task_id = await memory_house.stem.enqueue("p.add", {"left": 1, "right": 1}, options=TaskOptions(max_retries=0))
    status = await memory_house.stem.wait_for(task_id, WAIT_S)
    monkeypatch.undo()
    after = await outcome(memory_house, "p.add", left=1, right=1)

    assert status.error is not None
    assert "no child process can start: it was not ready after 0.5 s" in status.error.message
    assert after.state is TaskState.SUCCEEDED
    assert worker._processes.counters["unusable"] == processes.START_TRIES
    assert worker._processes.counters["crashed"] == 0
    assert worker._processes.alive() == 1


async def test_limits_of_children_that_nobody_asks_for_are_told(
    memory_house: House, caplog: pytest.LogCaptureFixture
) -> None:
    await memory_house.worker(app="tests.worker.isolated:app", lifecycle=WorkerLifecycleConfig(max_tasks_per_child=5))

    assert "no task here asks for one" in caplog.text
