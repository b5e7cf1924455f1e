"""A picture that has just been opened shows what happened before."""

from __future__ import annotations

import pytest

from stem.contracts import Pause
from stem.messages.status import ErrorInfo, TaskState
from tests.observe.builders import NOW, event, final, minute, page, queue, seen, snapshot, state, status

SINCE_S = NOW % 60_000 / 1000


def test_rates_are_there_with_the_first_snapshot() -> None:
    made = state()

    made.apply(
        snapshot(
            workers=[],
            queues=[queue(enqueued_total=9_000), queue("mail", enqueued_total=5)],
            minutes=[
                minute({"enqueued": 600, "succeeded": 300, "failed": 60}, back=1),
                minute({"enqueued": int(10 * SINCE_S), "succeeded": int(5 * SINCE_S)}),
            ],
        ),
        1_000.0,
    )

    assert made.came.rate() == pytest.approx(10, rel=0.02)
    assert made.went["succeeded"].rate() == pytest.approx(5, rel=0.02)
    assert made.queues["default"].came.rate() == pytest.approx(10, rel=0.02)
    assert made.queues["mail"].came.rate() == 0
    assert len(made.came.series(60)) == 60
    assert min(made.came.series(60)) > 9


def test_rates_go_on_from_there() -> None:
    made = state()
    made.apply(snapshot(workers=[], queues=[queue(enqueued_total=0)], minutes=[minute({"enqueued": 0}, back=1)]), 100.0)

    for second in range(1, 5):
        made.apply(snapshot(workers=[], queues=[queue(enqueued_total=7 * second)], minutes=[]), 100.0 + second)

    assert made.came.rate() == pytest.approx(7)
    assert made.came.series(60)[-4:] == pytest.approx([7] * 4)


def test_failures_of_before_are_grouped_with_what_they_said() -> None:
    made = state()
    waits = status("r", TaskState.RETRYING, attempt=2, started_at_ms=NOW - 3_000,
                   error=ErrorInfo(type="OSError", message="no route"))  # fmt: skip
    dead = status("d", TaskState.FAILED, attempt=3, finished_at_ms=NOW - 9_000,
                  error=ErrorInfo(type="KeyError", message="customer_id"))  # fmt: skip
    made.apply(
        snapshot(
            workers=[],
            queues=[queue()],
            history=[final("d", TaskState.FAILED, ago_ms=9_000, attempt=3, error_type="KeyError")],
            pages={"retrying": page(waits), "dead": page(dead)},
        ),
        1.0,
    )

    groups = {group.error: group for group in made.failures.groups(NOW)}
    assert {error: (group.count(NOW), group.message) for error, group in groups.items()} == {
        "OSError": (1, "no route"),
        "KeyError": (1, "customer_id"),
    }

    # The event of that very failure arrives late: it is the attempt that the record counted.
    made.apply_events([event("task.retried", "r", at_ms=NOW - 2_500, attempt=1, detail={"error": "OSError"})])
    assert groups["OSError"].count(NOW) == 1


def test_the_tail_begins_with_what_is_on_record_in_its_order() -> None:
    made = state()

    made.apply(
        snapshot(
            queues=[queue()],
            workers=[seen("w-1-aa", started_at_ms=NOW - 50_000), seen("gone-1-bb", age_ms=20_000, started_at_ms=0)],
            pauses=[Pause(kind="queue", target="default", actor="ana@bastion", reason="month", at_ms=NOW - 30_000)],
            history=[final("a", TaskState.FAILED, ago_ms=10_000, error_type="KeyError", attempt=1, worker="w-1-aa"),
                     final("b", ago_ms=40_000)],
        ),
        1.0,
    )  # fmt: skip

    assert [(line.kind, line.task_id, line.worker, line.queue) for line in made.events] == [
        ("worker.ready", "", "w", ""),
        ("task.succeeded", "b", "host-1-aa", "default"),
        ("queue.paused", "", "", "default"),
        ("worker.lost", "", "gone", ""),
        ("task.failed", "a", "w", "default"),
    ]
    assert made.events[-1].text == "KeyError  took 100ms  attempt 1"
    assert made.events[2].text == 'by ana@bastion: "month"'
    assert len({line.key for line in made.events}) == len(made.events)

    made.apply(snapshot(workers=[seen("w-1-aa")], queues=[queue()], history=[final("c")]), 2.0)
    assert len(made.events) == 5


def test_the_tail_of_a_busy_fleet_keeps_what_failed() -> None:
    made = state()
    rows = [final(f"f{number}", ago_ms=number) for number in range(2_000)]
    rows[1_900] = final("bad", TaskState.FAILED, ago_ms=1_900)

    made.apply(snapshot(workers=[], queues=[], history=rows), 1.0)

    assert len(made.events) == 501
    assert made.events[0].task_id == "bad"
