"""The controller returns at the last expected answer, and names those who gave none."""

from __future__ import annotations

import pytest

from stem.contracts import ChangeItem, ClearPause, Pause, RevokeTasks, Seen, SetDrain, SetPause, SetShutdown
from stem.control.asking import Asker
from stem.control.controller import Controller
from stem.errors import BrokerRefusedError, InvalidInputError, InvalidNameError, UnknownOutcomeError
from stem.messages.status import TaskState, TaskStatus
from tests.control.channel import START_MS, ScriptedBroker, beat, seen


def controller(broker: ScriptedBroker, timeout_s: float = 5.0) -> Controller:
    return Controller(broker.as_broker, timeout_s=timeout_s, clock=broker)


def item(target: str, outcome: str, *, worker: str = "", state: str = "") -> ChangeItem:
    changed = outcome in ("revoked", "running", "stored", "set", "cleared")
    return ChangeItem(target=target, outcome=outcome, changed=changed, worker=worker, state=state)


# ---------------------------------------------------------------------------------------------------------------- ping


async def test_ping_returns_at_the_last_answer() -> None:
    broker = ScriptedBroker([seen("a"), seen("b")])
    broker.answer(0.004, "a", data={"loop_age_ms": 3, "in_flight": 0, "concurrency": 4, "state": "running"})
    broker.answer(0.020, "b")

    result = await controller(broker).ping()

    assert (result.expected, result.replied, result.silent) == (2, 2, [])
    assert [(w.name, w.rtt_ms, w.diagnosis) for w in result.workers] == [("a", 4.0, "healthy"), ("b", 20.0, "healthy")]
    assert broker.now == pytest.approx(0.020)


async def test_nobody_there_returns_at_once() -> None:
    broker = ScriptedBroker([])

    result = await controller(broker).ping()

    assert (result.expected, result.replied, result.silent, broker.calls) == (0, 0, [], 0)


async def test_the_answer_decides_the_diagnosis_not_the_older_heartbeat() -> None:
    broker = ScriptedBroker([seen("a"), seen("b"), seen("c")])
    broker.answer(0.01, "a", data={"loop_age_ms": 9_000})
    broker.answer(0.01, "b", data={"in_flight": 4, "concurrency": 4})
    broker.answer(0.01, "c", data={"state": "draining", "loop_age_ms": "wrong type", "in_flight": True})

    result = await controller(broker).ping()

    assert [worker.diagnosis for worker in result.workers] == ["wedged", "busy", "draining"]


async def test_a_worker_that_beats_but_does_not_answer_is_deaf() -> None:
    broker = ScriptedBroker([seen("a")])
    broker.becomes(1.0, Seen(heartbeat=beat("a"), at_ms=START_MS + 1_000, age_ms=100))

    result = await controller(broker).ping()

    assert [(s.id, s.name, s.diagnosis, s.last_heartbeat_ms) for s in result.silent] == [
        ("a-1", "a", "deaf", START_MS + 1_000)
    ]
    assert broker.now == pytest.approx(5.0)


async def test_a_worker_frozen_since_before_the_command_is_lost() -> None:
    broker = ScriptedBroker([seen("a", age_ms=100)])
    broker.becomes(1.0, Seen(heartbeat=beat("a"), at_ms=START_MS - 100, age_ms=5_100))

    result = await controller(broker).ping()

    assert [silent.diagnosis for silent in result.silent] == ["lost"]


async def test_workers_lost_before_are_named_but_not_waited_for() -> None:
    broker = ScriptedBroker([seen("a"), seen("gone", age_ms=60_000), seen("left", age_ms=60_000, state="stopped")])
    broker.answer(0.01, "a")

    result = await controller(broker).ping()

    assert (result.expected, result.replied) == (1, 1)
    assert [(silent.name, silent.diagnosis) for silent in result.silent] == [("gone", "lost")]
    assert broker.now < 0.1


async def test_a_lost_worker_is_forgotten_once_one_of_its_name_started() -> None:
    old = seen("a", age_ms=60_000, id="a-0", started_at_ms=START_MS - 90_000)
    broker = ScriptedBroker([old, seen("a", started_at_ms=START_MS - 59_000)])
    broker.answer(0.01, "a")

    result = await controller(broker).ping()

    assert (result.expected, result.silent) == (1, [])


async def test_a_lost_worker_is_named_though_another_of_its_name_was_there_before() -> None:
    """Two workers on one host have its name unless told otherwise."""
    lost = seen("a", age_ms=60_000, id="a-0", started_at_ms=START_MS - 90_000)
    broker = ScriptedBroker([lost, seen("a", started_at_ms=START_MS - 61_000)])
    broker.answer(0.01, "a")

    result = await controller(broker).ping()

    assert (result.expected, [silent.diagnosis for silent in result.silent]) == (1, ["lost"])


async def test_late_repeated_and_foreign_replies_are_ignored() -> None:
    broker = ScriptedBroker([seen("a"), seen("b")])
    broker.answer(0.01, "a", command_id="another")
    broker.answer(0.02, "stranger")
    broker.answer(0.03, "a", data={"nonce": "of another ping"})
    broker.answer(0.04, "a", stage="no such stage")
    broker.answer(0.05, "a")
    broker.answer(0.06, "a")
    broker.answer(0.07, "b")

    result = await controller(broker).ping()

    assert [(worker.name, worker.rtt_ms) for worker in result.workers] == [("a", 50.0), ("b", 70.0)]


async def test_targets_are_ids_names_or_globs_and_what_matches_nothing_is_told() -> None:
    broker = ScriptedBroker([seen("web-1"), seen("web-2"), seen("mail")])
    broker.answer(0.01, "web-1")
    broker.answer(0.01, "web-2")

    result = await controller(broker).ping(["web-*", "ghost"])

    assert (result.expected, result.replied, result.unmatched) == (2, 2, ("ghost",))


@pytest.mark.parametrize("target", ["", "a b", "\x1b[31m", "x" * 65, "ä"])
async def test_a_target_that_cannot_be_a_worker_is_refused_before_anything_is_sent(target: str) -> None:
    broker = ScriptedBroker([seen("a")])

    with pytest.raises(InvalidNameError):
        await controller(broker).ping([target])

    assert broker.issued == []


async def test_a_lost_answer_to_the_issue_is_asked_for_again_with_the_same_id() -> None:
    broker = ScriptedBroker([])
    broker.errors = [UnknownOutcomeError("cut off")]

    await controller(broker).ping()

    assert len(broker.issued) == 1


async def test_a_refusal_after_a_lost_answer_is_not_the_whole_truth() -> None:
    """The first one may have been stored; a refusal of the very first one is certain."""
    broker = ScriptedBroker([])
    refusal = BrokerRefusedError("out of memory", code="OOM")

    broker.errors = [UnknownOutcomeError("cut off"), refusal]
    with pytest.raises(UnknownOutcomeError, match=r"ping got no answer.*out of memory.*may or may not") as caught:
        await controller(broker).ping()
    assert caught.value.__cause__ is refusal

    broker.errors = [refusal]
    with pytest.raises(BrokerRefusedError, match="out of memory"):
        await controller(broker).ping()


async def test_a_worker_that_says_goodbye_while_it_is_asked_is_named_stopped() -> None:
    broker = ScriptedBroker([seen("a")])
    broker.becomes(0.2, seen("a", state="stopped"))

    result = await controller(broker).ping()

    assert [silent.diagnosis for silent in result.silent] == ["stopped"]
    assert broker.now < 2


# ------------------------------------------------------------------------------------------------------------- inspect


async def test_inspect_hands_on_data_and_refusals() -> None:
    broker = ScriptedBroker([seen("a"), seen("old")])
    broker.answer(0.01, "a", data={"tasks": ["x"]})
    broker.answer(0.02, "old", ok=False, code="unsupported")

    result = await controller(broker).inspect("registered")

    assert [(worker.name, worker.ok, worker.data, worker.error_code) for worker in result.workers] == [
        ("a", True, {"tasks": ["x"]}, ""),
        ("old", False, {}, "unsupported"),
    ]
    assert result.failed == 1


async def test_inspect_of_something_unknown_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="use one of active"):
        await controller(ScriptedBroker()).inspect("everything")


# -------------------------------------------------------------------------------------------------------------- revoke


async def test_a_revoke_waits_only_for_the_workers_that_run_the_tasks() -> None:
    items = [item("t1", "revoked"), item("t2", "running", worker="a-1"), item("t3", "already")]
    broker = ScriptedBroker([seen("a"), seen("b")], items)
    broker.answer(0.01, "a", data={"held": ["t2"]})

    result = await controller(broker).revoke(["t1", "t2", "t3"], reason="no")

    assert (result.expected, result.applied, result.failed, result.silent) == (1, 1, 0, [])
    assert [(i.target, i.stage, i.changed) for i in result.items] == [
        ("t1", "effect", True),
        ("t2", "applied", True),
        ("t3", "effect", False),
    ]
    command, change = broker.issued[0]
    assert RevokeTasks(ids=["t1", "t2", "t3"], terminate=False) == change
    assert command.reason == "no"


async def test_waiting_for_a_revoke_tells_how_each_running_task_ended() -> None:
    items = [item("t1", "running", worker="a-1"), item("t2", "running", worker="a-1")]
    broker = ScriptedBroker([seen("a")], items)
    broker.answer(0.01, "a", data={"held": ["t1", "t2"]})
    broker.answer(2.0, "a", "effect", data={"ended": {"t1": "cancelled", "t2": "finished"}})

    result = await controller(broker).revoke(["t1", "t2"], terminate=True, wait_s=10)

    assert [(i.stage, i.outcome) for i in result.items] == [("effect", "cancelled"), ("effect", "finished")]
    assert not result.waited_out


async def test_a_wait_that_ran_out_says_so() -> None:
    broker = ScriptedBroker([seen("a")], [item("t1", "running", worker="a-1")])
    broker.answer(0.01, "a", data={"held": ["t1"]})

    result = await controller(broker).revoke(["t1"], wait_s=3)

    assert (result.waited_out, result.applied, result.silent, result.items[0].stage) == (True, 0, [], "applied")
    assert broker.now == pytest.approx(3.0)


async def test_a_worker_that_dies_while_the_effect_is_awaited_ends_the_wait() -> None:
    broker = ScriptedBroker([seen("a")], [item("t1", "running", worker="a-1")])
    broker.answer(0.01, "a", data={"held": ["t1"]})
    broker.becomes(4.0, seen("a", age_ms=7_000))

    result = await controller(broker).revoke(["t1"], wait_s=60)

    assert ([silent.diagnosis for silent in result.silent], result.waited_out) == (["lost"], False)
    assert broker.now < 6


async def test_a_worker_that_holds_none_of_them_any_more_ends_the_wait_with_what_the_record_says() -> None:
    broker = ScriptedBroker([seen("a")], [item("t1", "running", worker="a-1")])
    broker.records["t1"] = TaskStatus(id="t1", task="t", queue="q", state=TaskState.SUCCEEDED)
    broker.answer(0.01, "a", data={"held": []})

    result = await controller(broker).revoke(["t1"], wait_s=60)

    assert [(i.stage, i.outcome) for i in result.items] == [("effect", "succeeded")]
    assert broker.now < 1


async def test_a_revoke_of_an_unknown_id_is_stored_and_warned_about() -> None:
    broker = ScriptedBroker([], [item("t1", "stored")])

    result = await controller(broker).revoke(["t1"])

    assert (result.unmatched, result.items[0].stage, len(result.warnings)) == (("t1",), "applied", 1)


async def test_a_revoke_of_a_task_that_had_ended_fails_and_says_how_it_ended() -> None:
    broker = ScriptedBroker([], [item("t1", "final", state="succeeded")])

    result = await controller(broker).revoke(["t1"])

    assert result.items[0].error == "it had ended before: succeeded"


async def test_a_revoke_names_the_lost_worker_that_has_the_task() -> None:
    broker = ScriptedBroker([seen("a", age_ms=20_000)], [item("t1", "running", worker="a-1")])

    result = await controller(broker).revoke(["t1"], wait_s=5)

    assert ([s.diagnosis for s in result.silent], result.expected, result.waited_out) == (["lost"], 0, False)
    assert "when its lease runs out" in result.warnings[0]


@pytest.mark.parametrize("ids", [[], ["a b"], [str(number) for number in range(501)]])
async def test_a_revoke_of_bad_ids_is_refused(ids: list[str]) -> None:
    broker = ScriptedBroker()

    with pytest.raises(InvalidInputError):
        await controller(broker).revoke(ids)

    assert broker.issued == []


async def test_a_dry_run_of_a_revoke_sends_nothing_and_says_what_would_happen() -> None:
    broker = ScriptedBroker([seen("a")])
    broker.records = {
        "t1": TaskStatus(id="t1", task="t", queue="q", state=TaskState.QUEUED),
        "t2": TaskStatus(id="t2", task="t", queue="q", state=TaskState.RUNNING, worker="a-1"),
        "t3": TaskStatus(id="t3", task="t", queue="q", state=TaskState.FAILED),
    }

    result = await controller(broker).revoke(["t1", "t2", "t3", "t4"], dry_run=True)

    assert [i.outcome for i in result.items] == ["revoked", "running", "final", "stored"]
    assert (result.dry_run, result.expected, result.unmatched, broker.issued) == (True, 1, ("t4",), [])


# --------------------------------------------------------------------------------------------------------------- pause


async def test_a_pause_is_confirmed_by_every_live_worker() -> None:
    broker = ScriptedBroker([seen("a"), seen("b"), seen("gone", age_ms=60_000)])
    broker.answer(0.01, "a")
    broker.answer(0.02, "b")

    result = await controller(broker).pause("queue", ["default"], for_s=600)

    assert (result.expected, result.applied, [s.name for s in result.silent], result.epoch) == (2, 2, ["gone"], 7)
    assert SetPause(kind="queue", targets=("default",), for_ms=600_000) == broker.issued[0][1]


async def test_the_item_of_a_pause_has_the_stage_that_all_workers_reached() -> None:
    broker = ScriptedBroker([seen("a"), seen("b")])
    broker.answer(0.01, "a", "effect")
    broker.answer(0.02, "b", "applied")

    result = await controller(broker).pause("queue", ["default"], wait_s=1)

    assert ([i.stage for i in result.items], result.waited_out, result.applied) == (["applied"], True, 1)


async def test_a_worker_that_refuses_is_an_item_of_its_own() -> None:
    broker = ScriptedBroker([seen("a"), seen("b")])
    broker.answer(0.01, "a")
    broker.answer(0.02, "b", ok=False, code="unsupported")

    result = await controller(broker).pause("task", ["mail.send"])

    assert (result.applied, result.failed) == (1, 1)
    assert [(i.worker, i.error) for i in result.items] == [("", ""), ("b-1", "unsupported: why")]


async def test_pausing_with_no_worker_online_is_stored_and_returns_at_once() -> None:
    broker = ScriptedBroker()

    result = await controller(broker).pause("queue", ["default"])

    assert (result.expected, result.items[0].stage, broker.calls) == (0, "applied", 0)


async def test_workers_that_take_none_of_the_queues_have_nothing_to_confirm() -> None:
    broker = ScriptedBroker([seen("a"), seen("b", queues=("mail",)), seen("c", age_ms=60_000, queues=("mail",))])
    broker.answer(0.01, "a")

    result = await controller(broker).pause("queue", ["default"])

    assert (result.expected, result.applied, list(result.silent)) == (1, 1, [])
    assert broker.now < 1


async def test_pausing_workers_reaches_the_names_behind_a_glob_and_asks_only_them() -> None:
    broker = ScriptedBroker([seen("web-1"), seen("web-2"), seen("mail")])
    broker.answer(0.01, "web-1")
    broker.answer(0.01, "web-2")

    result = await controller(broker).pause("worker", ["web-*", "ghost"])

    assert (result.expected, result.applied, result.unmatched) == (2, 2, ("ghost",))
    assert SetPause(kind="worker", targets=("web-1", "web-2")) == broker.issued[0][1]


async def test_a_worker_that_is_gone_but_paused_can_be_resumed() -> None:
    broker = ScriptedBroker()
    broker.paused = [Pause(kind="worker", target="gone")]

    result = await controller(broker).resume("worker", ["gone"])

    assert (result.unmatched, len(broker.issued)) == ((), 1)


@pytest.mark.parametrize(
    ("target", "held", "resumed"),
    [
        ("web", "web-1-aa", ("web-1-aa",)),  # paused by its id, because another one has its name
        ("*", "web-1-aa", ("web-1-aa",)),
        ("*", "gone", ("gone",)),
        ("db-1-bb", "db", ("db",)),
        ("web-1-aa", "web", ("web-1-aa",)),  # the other one called so is not meant
    ],
)
async def test_a_worker_is_resumed_whatever_it_was_paused_as(target: str, held: str, resumed: tuple[str, ...]) -> None:
    broker = ScriptedBroker([seen("web", id="web-1-aa"), seen("web", id="web-2-bb"), seen("db", id="db-1-bb")])
    broker.paused = [Pause(kind="worker", target=held), Pause(kind="queue", target="web")]
    for worker in ("web-1-aa", "web-2-bb", "db-1-bb"):
        broker.answer(0.01, worker)

    await controller(broker).resume("worker", [target])

    assert ClearPause(kind="worker", targets=resumed) == broker.issued[0][1]


async def test_a_dry_run_of_a_pause_says_what_is_paused_already() -> None:
    broker = ScriptedBroker([seen("a")])
    broker.paused = [Pause(kind="queue", target="mail")]

    result = await controller(broker).pause("queue", ["mail", "web"], dry_run=True)

    assert [(i.target, i.outcome, i.changed) for i in result.items] == [
        ("mail", "already", False),
        ("web", "set", True),
    ]
    assert broker.issued == []


# ------------------------------------------------------------------------------------------------- drain and shut down


async def test_a_drain_is_bound_to_ids_and_reports_names() -> None:
    broker = ScriptedBroker([seen("a"), seen("b")])
    broker.answer(0.01, "a")
    broker.answer(3.0, "a", "effect")

    result = await controller(broker).drain(["a"], wait_s=30)

    assert SetDrain(workers=["a-1"]) == broker.issued[0][1]
    assert [(i.target, i.worker, i.stage) for i in result.items] == [("a", "a-1", "effect")]


async def test_the_goodbye_is_the_effect_of_a_shutdown_also_when_no_reply_came() -> None:
    broker = ScriptedBroker([seen("a"), seen("b")])
    broker.answer(0.01, "a")
    broker.answer(0.01, "b")
    broker.answer(1.0, "b", "effect")
    broker.becomes(2.0, seen("a", state="stopped"))

    result = await controller(broker).shutdown(wait_s=30)

    assert SetShutdown(workers=["a-1", "b-1"], mode="warm") == broker.issued[0][1]
    assert (result.expected, result.applied, result.waited_out, result.silent) == (2, 2, False, [])
    assert [i.stage for i in result.items] == ["effect", "effect"]


async def test_a_shutdown_reaches_a_frozen_worker_but_does_not_wait_for_it() -> None:
    broker = ScriptedBroker([seen("a", age_ms=30_000)])

    result = await controller(broker).shutdown(["a"])

    assert (result.expected, [s.diagnosis for s in result.silent], broker.now) == (0, ["lost"], 0.0)
    assert SetShutdown(workers=["a-1"], mode="warm") == broker.issued[0][1]
    assert [item.stage for item in result.items] == ["accepted"]


async def test_steering_an_unknown_worker_sends_nothing() -> None:
    broker = ScriptedBroker([seen("a")])

    result = await controller(broker).drain(["ghost"])

    assert (result.unmatched, list(result.items), broker.issued) == (("ghost",), [], [])


async def test_a_drain_of_everybody_by_accident_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="no worker given"):
        await controller(ScriptedBroker([seen("a")])).drain([])


# ------------------------------------------------------------------------------------------------- each worker's answer


async def test_each_worker_that_answered_is_named_with_its_answer() -> None:
    """Who confirmed, who refused and why; the silent are in a list of their own."""
    broker = ScriptedBroker([seen("a"), seen("b"), seen("c")], [item("default", "set")])
    broker.answer(0.01, "a")
    broker.answer(0.02, "b", ok=False, code="role-refused")

    result = await controller(broker, timeout_s=1.0).pause("queue", ["default"])

    assert [(each.name, each.stage, each.error, each.rtt_ms) for each in result.workers] == [
        ("a", "applied", "", 10.0),
        ("b", "", "role-refused: why", 20.0),
    ]
    assert [each.name for each in result.silent] == ["c"]


async def test_who_may_only_look_gets_nothing_to_command_with() -> None:
    """A dashboard that is read-only holds an object that has no way to change anything."""
    changes = {"revoke", "pause", "resume", "drain", "undrain", "shutdown", "recorded"}

    public = {name for name in dir(Asker) if not name.startswith("_")}

    assert public == {"ping", "inspect", "stats", "look"}
    assert {name for name in dir(Controller) if not name.startswith("_")} == public | changes
