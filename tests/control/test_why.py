"""`why` names what holds a task, the most important first, and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from stem.adapters.memory import InMemoryBroker
from stem.contracts import FetchRequest, NewTask, Outcome, Pause, Settlement
from stem.control.controller import Controller
from stem.control.why import Ahead, Explanation, Facts, explain, registered_names, why
from stem.errors import InvalidNameError
from stem.messages.status import ErrorInfo, TaskState, TaskStatus
from tests.control.channel import START_MS, seen


def status(state: TaskState = TaskState.QUEUED, **fields: Any) -> TaskStatus:
    return TaskStatus(**{"id": "t1", "task": "mail.send", "queue": "default", "state": state, **fields})


def ask(found: TaskStatus | None, **facts: Any) -> Explanation:
    return explain(Facts(id="t1", now_ms=START_MS, status=found, **{"ahead": Ahead(ready=0, higher=0), **facts}))


def codes(explanation: Explanation) -> list[str]:
    return [cause.code for cause in explanation.causes]


def test_an_unknown_id() -> None:
    found = ask(None)

    assert (found.state, codes(found)) == (None, ["unknown-id"])


def test_nothing_in_its_way() -> None:
    assert codes(ask(status(), workers=[seen("a")])) == ["next"]


def test_what_stands_in_none_of_the_pages_is_not_said_to_be_next() -> None:
    assert codes(ask(status(), workers=[seen("a")], ahead=None)) == ["moved"]


@pytest.mark.parametrize(
    ("ahead", "text"),
    [
        (Ahead(ready=1, higher=0), "1 ready task stands before it"),
        (Ahead(ready=7, higher=3), "7 ready tasks stand before it, 3 of them of higher priority"),
        (Ahead(ready=1_000, higher=0, more=True), "more than 1000 ready tasks stand before it"),
    ],
)
def test_others_before_it(ahead: Ahead, text: str) -> None:
    found = ask(status(), workers=[seen("a")], ahead=ahead)

    assert (codes(found), found.causes[0].text) == (["behind"], text)


@pytest.mark.parametrize(("kind", "name"), [("queue", "default"), ("task", "mail.send")])
def test_a_pause_says_by_whom_since_when_until_when_and_why(kind: Any, name: str) -> None:
    pause = Pause(
        kind=kind, target=name, actor="ann@h", reason="deploy", at_ms=START_MS - 240_000, until_ms=START_MS + 600_000
    )

    found = ask(status(), workers=[seen("a")], pauses=[pause])

    assert codes(found) == [f"{kind}-paused"]
    for part in (f"{kind} {name} is paused by ann@h since", "(4m ago)", "(in 10m)", "because: deploy"):
        assert part in found.verdict
    assert found.causes[0].fix == f"stemctl resume --{kind} {name}"


def test_a_pause_of_something_else_is_not_its_cause() -> None:
    pauses = [Pause(kind="queue", target="other"), Pause(kind="task", target="default")]

    assert codes(ask(status(), workers=[seen("a")], pauses=pauses)) == ["next"]


def test_no_worker_takes_its_queue() -> None:
    found = ask(status(), workers=[seen("a", queues=("mail",)), seen("b", state="stopped")])

    assert codes(found) == ["no-worker"]
    assert "the queues taken now: mail" in found.verdict


def test_all_workers_of_its_queue_are_lost() -> None:
    found = ask(status(), workers=[seen("a", age_ms=60_000), seen("b", queues=("mail",))])

    assert codes(found) == ["workers-lost"]
    assert "a (last beat 60s ago)" in found.verdict


def test_nobody_registers_its_name() -> None:
    workers = [seen("a"), seen("b")]

    assert codes(ask(status(), workers=workers, registered={"a-1": {"x"}, "b-1": set()})) == ["unregistered"]
    assert codes(ask(status(), workers=workers, registered={"a-1": {"x"}, "b-1": {"mail.send"}})) == ["next"]


def test_a_worker_that_did_not_say_what_it_registers_has_the_benefit_of_the_doubt() -> None:
    assert codes(ask(status(), workers=[seen("a"), seen("b")], registered={"a-1": {"x"}})) == ["next"]


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"in_flight": 4}, "workers-busy"),
        ({"state": "draining"}, "workers-draining"),
        ({"loop_age_ms": 5_000}, "workers-wedged"),
    ],
)
def test_every_worker_that_could_run_it_is_kept(fields: dict[str, Any], code: str) -> None:
    assert codes(ask(status(), workers=[seen("a", **fields), seen("b", **fields)])) == [code]
    assert codes(ask(status(), workers=[seen("a", **fields), seen("b")])) == ["next"]


def test_workers_kept_by_different_things_are_all_named() -> None:
    workers = [seen("a", in_flight=4), seen("b", loop_age_ms=5_000), seen("c")]

    found = ask(status(), workers=workers, pauses=[Pause(kind="worker", target="c")])

    assert codes(found) == ["workers-paused", "workers-wedged", "workers-busy"]


def test_scheduled_comes_first_and_what_will_hinder_it_then_is_told_too() -> None:
    found = ask(status(TaskState.SCHEDULED, due_at_ms=START_MS + 3 * 3_600_000))

    assert codes(found) == ["scheduled", "no-worker"]
    assert "(in 3h)" in found.verdict


def test_retrying_has_the_last_error() -> None:
    error = ErrorInfo(type="ValueError", message="no such address")

    found = ask(status(TaskState.RETRYING, attempt=2, due_at_ms=START_MS + 5_000, error=error), workers=[seen("a")])

    assert codes(found) == ["retrying"]
    assert "attempt 2 failed with ValueError: no such address" in found.verdict
    assert "(in 5s)" in found.verdict


@pytest.mark.parametrize(
    ("fields", "code"),
    [({}, "running"), ({"loop_age_ms": 5_000}, "wedged"), ({"state": "stopped"}, "worker-lost")],
)
def test_running_tells_where(fields: dict[str, Any], code: str) -> None:
    running = status(TaskState.RUNNING, worker="a-1", started_at_ms=START_MS - 30_000)

    found = ask(running, workers=[seen("a", **fields)])

    assert codes(found) == [code]
    assert " a" in found.verdict


def test_running_on_a_lost_worker_will_run_elsewhere() -> None:
    running = status(TaskState.RUNNING, worker="a-1")

    assert codes(ask(running, workers=[seen("a", age_ms=60_000)])) == ["worker-lost"]
    assert codes(ask(running, workers=[])) == ["worker-lost"]


def test_what_a_lost_worker_held_comes_back_only_where_somebody_takes_its_queue() -> None:
    """Whoever takes from a queue also takes back what was lost on it. Nobody else does."""
    running, lost = status(TaskState.RUNNING, worker="a-1"), seen("a", age_ms=60_000)

    (taken,) = ask(running, workers=[lost, seen("b")]).causes
    (left,) = ask(running, workers=[lost, seen("b", queues=("other",))]).causes

    assert taken.fix.startswith("nothing to do")
    assert left.fix.endswith("stem-worker APP --queue default")


@pytest.mark.parametrize(
    ("state", "reason", "code", "fix"),
    [
        (TaskState.SUCCEEDED, "", "succeeded", "stemctl result t1"),
        (TaskState.EXPIRED, "", "expired", "enqueue it again"),
        (TaskState.REVOKED, "not needed", "revoked", "under a new id"),
        (TaskState.FAILED, "failed", "failed", "stemctl dlq replay t1"),
        (TaskState.FAILED, "poison", "poison", "stemctl dlq replay t1"),
        (TaskState.FAILED, "unregistered", "unregistered", "stemctl dlq replay t1"),
        (TaskState.FAILED, "signature-invalid", "signature-invalid", "STEM_SIGNING_KEYS"),
        (TaskState.FAILED, "malformed", "malformed", "see who wrote it"),
    ],
)
def test_final_ones_say_how_and_what_to_do(state: TaskState, reason: str, code: str, fix: str) -> None:
    found = ask(status(state, reason=reason, finished_at_ms=START_MS - 1_000))

    assert (codes(found), found.state) == ([code], state.value)
    assert fix in found.causes[0].fix


def test_an_unregistered_one_may_have_been_known_to_others() -> None:
    """Who buries it looks at the clock, not at every worker: another that knows it may have been too busy for it."""
    found = ask(status(TaskState.FAILED, reason="unregistered", finished_at_ms=START_MS - 1_000))

    assert "no worker that took it could run it" in found.causes[0].text
    assert "every worker of its queue" in found.causes[0].fix


def test_registered_names_are_those_of_the_items() -> None:
    data = {"count": 2, "items": [{"name": "a", "kind": "async"}, {"name": "b", "kind": "thread"}]}

    assert registered_names(data) == {"a", "b"}


@pytest.mark.parametrize("data", [{}, {"items": 3}, {"items": [1, None, {"name": 2}, {}]}, {"items": {"name": "a"}}])
def test_nonsense_registers_nothing(data: dict[str, Any]) -> None:
    assert registered_names(data) == frozenset()


# ------------------------------------------------------------------------------------------------------- from a broker


async def fill(broker: InMemoryBroker, priorities: Sequence[int]) -> None:
    tasks = [
        NewTask(id=f"t{index}", task="mail.send", queue="default", body=b"body", priority=priority)
        for index, priority in enumerate(priorities)
    ]
    await broker.enqueue(tasks)


async def test_its_place_is_counted_in_the_order_that_tasks_will_run() -> None:
    broker = InMemoryBroker()
    await fill(broker, [0, 0, 9, 0])

    found = await why(broker, Controller(broker), "t3")

    assert "3 ready tasks stand before it, 1 of them of higher priority" in [cause.text for cause in found.causes]
    await broker.close()


async def test_a_task_far_behind_is_answered_with_bounded_work() -> None:
    broker = InMemoryBroker()
    await fill(broker, [0] * 1_300)

    found = await why(broker, Controller(broker), "t1299")

    assert any("more than 1000" in cause.text for cause in found.causes)
    await broker.close()


async def test_a_dead_letter_is_explained_by_its_record() -> None:
    broker = InMemoryBroker()
    await fill(broker, [0])
    (delivery,) = (await broker.exchange("w-1", [], FetchRequest(queues=["default"], count=1))).deliveries
    error = ErrorInfo(type="ValueError", message="boom").encode()
    settlement = Settlement(id="t0", token=delivery.token, outcome=Outcome.DEAD, error=error, reason="failed")
    await broker.exchange("w-1", [settlement], None)

    found = await why(broker, Controller(broker), "t0")

    assert codes(found) == ["failed"]
    assert "ValueError: boom" in found.verdict
    await broker.close()


async def test_an_ill_formed_id_is_refused() -> None:
    broker = InMemoryBroker()

    with pytest.raises(InvalidNameError):
        await why(broker, Controller(broker), "a b")
    await broker.close()
