"""The reducer: what snapshots and events make of the picture."""

from __future__ import annotations

import random
from typing import Any

import pytest

from stem.contracts import ListState, Pause
from stem.messages.status import ErrorInfo, TaskState
from stem.observe import state as module
from stem.observe.state import ClusterState
from tests.observe.builders import NOW, event, final, fleet, info, page, queue, running, seen, snapshot, state, status


def live(*tasks: str, worker: str = "host-1-aa", age_ms: int = 100) -> ClusterState:
    """Return a state whose one worker says it runs these tasks."""
    made = state()
    beat = seen(worker, age_ms=age_ms, in_flight=len(tasks), running=tuple(running(each) for each in tasks))
    made.apply(snapshot(workers=[beat]), 1.0)
    return made


def test_counts_are_those_of_the_broker_whatever_events_say() -> None:
    made = state()
    made.apply(snapshot(queues=[queue(ready=3, in_flight=2, retrying=1)], workers=[]), 1.0)

    made.apply_events(event("task.started", f"t{number}") for number in range(50))

    row = made.queues["default"]
    assert (row.ready, row.in_flight, row.retrying) == (3, 2, 1)


def test_a_queue_that_is_gone_disappears() -> None:
    made = state()
    made.apply(snapshot(queues=[queue("a"), queue("b")]), 1.0)

    made.apply(snapshot(queues=[queue("b")]), 2.0)

    assert list(made.queues) == ["b"]


def test_what_was_not_asked_for_stays_as_it_was() -> None:
    made = fleet()
    workers, queues = set(made.workers), set(made.queues)

    made.apply(snapshot(), 2_000.0)

    assert (set(made.workers), set(made.queues)) == (workers, queues)


def test_rates_come_from_the_brokers_totals() -> None:
    made = state()
    for second in range(4):
        made.apply(snapshot(queues=[queue(enqueued_total=100 * second)], workers=[]), float(second))

    assert made.came.rate() == pytest.approx(100.0)
    assert made.queues["default"].came.rate() == pytest.approx(100.0)


def test_a_running_task_is_there_from_its_heartbeat_and_goes_with_it() -> None:
    made = live("a", "b")

    assert set(made.running) == {"a", "b"}
    made.apply(snapshot(NOW + 2_000, workers=[seen(age_ms=0, now_ms=NOW + 2_000, in_flight=1,
                                                   running=(running("b"),))]), 2.0)  # fmt: skip

    assert set(made.running) == {"b"}
    assert "a" not in made.tasks


def test_a_heartbeat_that_cannot_name_all_it_runs_removes_nothing() -> None:
    made = live("a")

    made.apply(snapshot(NOW + 2_000, workers=[seen(age_ms=0, now_ms=NOW + 2_000, in_flight=300)]), 2.0)

    assert set(made.running) == {"a"}


def test_two_workers_of_one_name_do_not_take_each_others_tasks() -> None:
    made = state()
    one = seen("host-1-aa", in_flight=1, running=(running("a"),))
    two = seen("host-2-bb", in_flight=1, running=(running("b"),))

    made.apply(snapshot(workers=[one, two]), 1.0)

    assert set(made.running) == {"a", "b"}
    assert made.running["a"].owner == "host-1-aa"


def test_what_a_lost_worker_said_it_ran_is_not_believed_any_more() -> None:
    made = live("a", age_ms=60_000)

    assert not made.running
    assert made.workers["host-1-aa"].diagnosis == "lost"


def test_an_event_that_is_newer_than_the_heartbeat_stands() -> None:
    made = live("a", age_ms=1_500)

    made.apply_events([event("task.succeeded", "a", at_ms=NOW - 200)])
    made.apply(snapshot(workers=[seen(age_ms=1_400, in_flight=1, running=(running("a"),))]), 2.0)

    assert made.tasks["a"].state == "succeeded"
    assert "a" not in made.running


def test_a_heartbeat_that_was_on_its_way_does_not_bring_a_finished_task_back() -> None:
    made = state()
    made.apply(snapshot(workers=[seen(running=(running("t1", started_ago_ms=900),), in_flight=1)]), 1.0)
    made.apply_events([event("task.succeeded", "t1", at_ms=NOW - 500)])

    # Written before the end, stored after it.
    made.apply(snapshot(workers=[seen(age_ms=100, running=(running("t1", started_ago_ms=900),), in_flight=1)]), 2.0)

    assert made.tasks["t1"].state == "succeeded"
    assert not made.running

    # Its next life, say, after a replay.
    made.apply(
        snapshot(workers=[seen(age_ms=0, running=(running("t1", started_ago_ms=50, token=2),), in_flight=1)]), 3.0
    )

    assert made.tasks["t1"].state == "running"


@pytest.mark.parametrize("seed", range(20))
def test_events_in_any_order_end_in_the_same_state(seed: int) -> None:
    """Workers' clocks differ a little and batches overtake each other; a late event moves no task backwards."""
    life = [
        event("task.received", "a", at_ms=NOW),
        event("task.started", "a", at_ms=NOW + 5),
        event("task.retried", "a", at_ms=NOW + 10, detail={"error": "E", "message": "m", "next_at_ms": NOW + 500}),
        event("task.started", "a", at_ms=NOW + 510, attempt=1),
        event("task.succeeded", "a", at_ms=NOW + 520, attempt=1),
    ]
    random.Random(seed).shuffle(life)
    made = state()

    made.apply_events(life)

    assert made.tasks["a"].state == "succeeded"
    assert made.tasks["a"].attempt == 1
    assert not made.running


def test_a_replayed_task_lives_again() -> None:
    made = state()
    made.apply_events([event("task.failed", "a", at_ms=NOW, attempt=3, detail={"error": "E"})])

    made.apply_events([event("task.started", "a", at_ms=NOW + 60_000, attempt=0)])

    assert made.tasks["a"].state == "running"


def test_a_task_handed_back_waits_again() -> None:
    made = live("a")

    made.apply_events([event("task.handed_back", "a", at_ms=NOW + 50)])

    assert made.tasks["a"].state == "queued"
    assert not made.running


def test_a_page_that_is_the_whole_list_removes_what_it_does_not_name() -> None:
    made = state()
    made.apply(snapshot(workers=[seen()], pages={"dead": page(status("a", TaskState.FAILED), status("b"))}), 1.0)

    made.apply(snapshot(NOW + 1_000, workers=[seen()], pages={"dead": page(status("b", TaskState.FAILED))}), 2.0)

    assert [row.key for row in made.open.values() if row.state == "dead"] == ["b"]


def test_a_page_does_not_undo_what_events_said_after_it_was_asked_for() -> None:
    made = live()
    made.apply_events([event("task.started", "a", at_ms=NOW + 400)])

    made.apply(snapshot(pages={"queued": page(status("a", TaskState.QUEUED))}), 2.0)

    assert made.tasks["a"].state == "running"


def test_a_cut_page_is_known_to_be_cut() -> None:
    made = state()

    made.apply(snapshot(pages={"queued": page(status("a", TaskState.QUEUED), more=True)}), 1.0)

    assert made.cut == {"queued"}


def test_history_fills_in_what_was_not_watched() -> None:
    made = state()

    made.apply(snapshot(history=[final("a"), final("b", TaskState.FAILED, error_type="ValueError")]), 1.0)

    assert made.tasks["a"].state == "succeeded"
    assert made.failures.groups(NOW)[0].error == "ValueError"


def test_a_replayed_task_that_fails_again_counts_twice_however_often_it_is_told_of() -> None:
    made = state()
    rows = [final("a", TaskState.FAILED, error_type="E", ago_ms=ago_ms) for ago_ms in (1_000, 121_000)]

    for second in range(3):
        made.apply(snapshot(NOW + second * 1_000, history=rows), float(second))

    assert made.failures.groups(NOW)[0].count(NOW) == 2


@pytest.mark.parametrize("waits", ["queued", "scheduled", "retrying"])
def test_a_replayed_task_that_waits_is_not_what_it_was_before(waits: ListState) -> None:
    made = state()
    made.apply(snapshot(history=[final("a", TaskState.FAILED)]), 1.0)

    for second in range(1, 4):
        pages = {waits: page(status("a", TaskState(waits)))}
        made.apply(snapshot(NOW + second * 1_000, pages=pages, history=[final("a", TaskState.FAILED)]), 1.0 + second)

        assert made.tasks["a"].state == waits
        assert "a" in made.open


def test_finished_tasks_are_bounded_and_running_ones_are_never_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FINISHED_KEPT", 10)
    made = live("runs")

    made.apply_events(event("task.succeeded", f"t{number}", at_ms=NOW + number) for number in range(50))

    assert len(made.tasks) == 11
    assert "runs" in made.running
    assert "t49" in made.tasks


def test_what_only_events_told_of_is_forgotten_when_no_poll_meets_it() -> None:
    made = state()
    made.apply_events([event("task.retried", "a", at_ms=NOW - 120_000)])

    for second in range(25):
        made.apply(snapshot(workers=[seen()], pages={}), float(second))

    assert "a" not in made.tasks


@pytest.mark.parametrize(
    ("fields", "diagnosis"),
    [
        ({"age_ms": 400}, "healthy"),
        ({"age_ms": 5_000}, "late"),
        ({"age_ms": 7_000}, "lost"),
        ({"age_ms": 400, "loop_age_ms": 9_000}, "wedged"),
        ({"age_ms": 400, "state": "draining"}, "draining"),
        ({"age_ms": 90_000, "state": "stopped"}, "stopped"),
        ({"age_ms": 400, "in_flight": 4}, "busy"),
    ],
)
def test_each_worker_has_a_diagnosis(fields: dict[str, Any], diagnosis: str) -> None:
    made = state()

    made.apply(snapshot(workers=[seen(**fields)]), 1.0)

    assert made.workers["host-1-aa"].diagnosis == diagnosis


def test_a_lost_worker_that_came_again_is_superseded() -> None:
    made = state()
    again = seen("host-2-bb", started_at_ms=NOW - 59_000)

    made.apply(snapshot(workers=[seen("host-1-aa", age_ms=60_000), again]), 1.0)

    assert made.workers["host-1-aa"].superseded
    assert not made.workers["host-2-bb"].superseded


@pytest.mark.parametrize("started_ago_ms", [7_200_000, 61_000, 60_000])
def test_a_lost_worker_is_no_other_that_was_there_before_it_was_lost(started_ago_ms: int) -> None:
    """Two workers of one host share its name: the one that lives is no second life of the one that was killed."""
    made = state()
    other = seen("host-2-bb", started_at_ms=NOW - started_ago_ms)

    made.apply(snapshot(workers=[seen("host-1-aa", age_ms=60_000), other]), 1.0)

    assert not made.workers["host-1-aa"].superseded


def test_a_lost_worker_whose_clock_was_ahead_does_not_supersede_itself() -> None:
    made = state()

    made.apply(snapshot(workers=[seen("host-1-aa", age_ms=60_000, started_at_ms=NOW)]), 1.0)

    assert not made.workers["host-1-aa"].superseded


def test_workers_that_come_and_go_are_told_of_once() -> None:
    made = state()
    made.apply(snapshot(workers=[seen()]), 1.0)

    made.apply(snapshot(workers=[seen(age_ms=9_000)]), 2.0)
    made.apply(snapshot(workers=[seen(age_ms=9_500)]), 3.0)
    made.apply(snapshot(workers=[seen(), seen("new-1-bb")]), 4.0)

    assert [(row.kind, row.worker) for row in made.events] == [
        ("worker.ready", "host"),
        ("worker.lost", "host"),
        ("worker.recovered", "host"),
        ("worker.ready", "new"),
    ]


@pytest.mark.parametrize("beats_s", [1, 2, 5, 15])
def test_a_workers_rate_does_not_depend_on_how_often_it_beats(beats_s: int) -> None:
    """Ten a second, told with each heartbeat and polled once a second."""
    made, rates = state(), set[float]()

    for second in range(4 * beats_s):
        age_s = second % beats_s
        now_ms = NOW + second * 1_000
        told = seen(
            age_ms=age_s * 1_000, now_ms=now_ms, interval_ms=beats_s * 1_000,
            counters={"succeeded": 10 * (second - age_s), "failed": 4 * (second - age_s), "retried": second - age_s},
        )  # fmt: skip
        made.apply(snapshot(now_ms, workers=[told]), 1_000.0 + second)
        line = made.workers["host-1-aa"]
        if second >= beats_s:
            rates |= {round(line.succeeded.rate(line.rate_s), 3), round(2 * line.failed.rate(line.rate_s), 3)}

    assert rates == {10.0}


def test_two_workers_of_one_name_that_are_lost_together_are_both_told_of() -> None:
    made = state()
    made.apply(snapshot(workers=[seen("host-1-aa"), seen("host-2-bb")]), 1.0)

    made.apply(snapshot(workers=[seen("host-1-aa", age_ms=9_000), seen("host-2-bb", age_ms=9_000)]), 2.0)

    assert [row.owner for row in made.events if row.kind == "worker.lost"] == ["host-1-aa", "host-2-bb"]


def test_what_a_worker_said_itself_is_not_told_again() -> None:
    made = state()
    made.apply(snapshot(workers=[seen()]), 1.0)

    made.apply_events([event("worker.stopping", "", worker="host-1-aa")])
    made.apply(snapshot(workers=[seen(state="draining")]), 2.0)

    assert [row.kind for row in made.events if row.kind.startswith("worker.stop")] == ["worker.stopping"]


def test_pauses_set_and_ended_elsewhere_are_told_of() -> None:
    made = state()
    pause = Pause(kind="queue", target="mail", actor="ana", reason="storm", at_ms=NOW)
    made.apply(snapshot(pauses=[]), 1.0)

    made.apply(snapshot(pauses=[pause]), 2.0)
    made.apply(snapshot(pauses=[]), 3.0)

    told = [(row.kind, row.queue, row.text) for row in made.events]
    assert told == [("queue.paused", "mail", 'by ana: "storm"'), ("queue.resumed", "mail", "")]


def test_the_brokers_clock_is_taken_from_its_answers() -> None:
    made = state()

    made.apply(snapshot(NOW - 5_000, workers=[seen()]), 1.0)
    assert made.offset_ms == 5_000

    made.apply(snapshot(NOW - 5_000, workers=[seen(now_ms=NOW + 300)]), 2.0)
    assert made.offset_ms == 5_001  # an answer that took longer is no reason to jump


def test_without_workers_the_server_tells_the_time() -> None:
    made = state()

    made.apply(snapshot(NOW - 7_000, workers=[], info=info()), 1.0)

    assert made.offset_ms == 7_000


def test_sampled_and_missed_events_make_counts_a_lower_bound() -> None:
    made = state()
    assert not made.incomplete(NOW)

    made.apply_events([event("events.sampled", "")])
    assert made.incomplete(NOW + 1_000)
    assert not made.incomplete(NOW + 600_000)

    made.gap(NOW + 700_000)
    assert made.incomplete(NOW + 700_001)


@pytest.mark.parametrize(
    ("detail", "missed"),
    [
        ({"skipped": 7, "routine": 7}, None),
        ({"skipped": 7, "routine": 5}, 2),
        ({"skipped": 7}, 7),  # of an older worker
        ({"skipped": 7, "routine": "7"}, 7),
        ({"skipped": 3, "routine": 7}, None),
        ({}, 0),
    ],
)
def test_a_part_of_what_goes_well_is_no_gap(detail: dict[str, object], missed: int | None) -> None:
    """Every failure was told, so that counts of them are whole."""
    made = state()

    made.apply_events([event("events.sampled", "", detail=detail)])

    assert made.sampled_ms == NOW
    assert (made.missed if made.incomplete(NOW + 1_000) else None) == missed


def test_errors_of_dead_letters_are_shown_with_them() -> None:
    made = state()
    dead = status("a", TaskState.FAILED, error=ErrorInfo(type="KeyError", message="'x'"), finished_at_ms=NOW)

    made.apply(snapshot(pages={"dead": page(dead)}), 1.0)

    assert (made.tasks["a"].state, made.tasks["a"].error, made.tasks["a"].message) == ("dead", "KeyError", "'x'")


HOSTILE = "\x1b]0;owned\x07\x9b2J[/red][@click=app.quit]\u202e\u200b\ud800\n"


def test_nothing_hostile_gets_into_a_row() -> None:
    """Every text of every message, put to the worst, comes out printable."""
    made = state()
    task = running(HOSTILE, task=HOSTILE, queue=HOSTILE, progress={HOSTILE: HOSTILE})
    worker = seen(HOSTILE, name=HOSTILE, host=HOSTILE, version=HOSTILE, queues=(HOSTILE,), paused=(HOSTILE,),
                  digest=HOSTILE, counters={HOSTILE: 1}, running=(task,), in_flight=1)  # fmt: skip
    pause = Pause(kind="queue", target=HOSTILE, actor=HOSTILE, reason=HOSTILE)
    failure = ErrorInfo(type=HOSTILE, message=HOSTILE)
    made.apply(snapshot(pauses=[]), 0.0)
    made.apply(
        snapshot(
            queues=[queue(HOSTILE, pause=pause)],
            workers=[worker],
            pauses=[pause],
            history=[final(HOSTILE + "1", TaskState.FAILED, task=HOSTILE, error_type=HOSTILE, worker=HOSTILE)],
            pages={"dead": page(status(HOSTILE + "2", TaskState.FAILED, task=HOSTILE, error=failure, reason=HOSTILE))},
        ),
        1.0,
    )
    detail = {name: HOSTILE for name in ("error", "message", "progress", "how", HOSTILE)}
    for kind in ("task.failed", "task.retried", "task.progress", "worker.ready", HOSTILE):
        made.apply_events([event(kind, HOSTILE, task=HOSTILE, queue=HOSTILE, worker=HOSTILE, detail=detail)])

    rows: list[Any] = [*made.queues.values(), *made.workers.values(), *made.tasks.values(), *made.events]
    for row in [*rows, *made.failures.groups(NOW)]:
        # `key` and `owner` name a row in commands, `running` names rows: as sent, and never shown.
        for name in set(type(row).__slots__) - {"key", "owner", "running"}:
            assert all(text.isprintable() for text in texts(getattr(row, name))), (type(row).__name__, name)


def texts(value: Any) -> list[str]:
    """Return the text within a field."""
    found = list(value) if isinstance(value, tuple | dict) else [value]
    return [each for each in found if isinstance(each, str)]
