"""Columns fit, rows are in order."""

from __future__ import annotations

from typing import Any

import pytest

from stem.observe.rows import QueueLine, TaskLine, WorkerLine
from stem_tui import select, tasks
from stem_tui.columns import Ordered, Sorting, View, fit, ordered
from stem_tui.theme import QUEUE, TASK, WORKER, Cell
from tests.observe.builders import NOW, fleet

VIEWS: list[View[Any]] = [
    select.QUEUES, select.WORKERS, select.FAILURES, tasks.LONGEST, tasks.RUNNING_HERE, select.EVENTS,
    select.EVENTS_HERE, *tasks.TABS.values(),
]  # fmt: skip


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.title)
@pytest.mark.parametrize("width", [20, 56, 76, 116, 156, 250])
def test_columns_never_need_more_than_the_width(view: View[Any], width: int) -> None:
    fitted = fit(view.columns, width)

    assert sum(size for _, size in fitted) + len(fitted) - 1 <= width or width == 20
    assert all(size > 0 for _, size in fitted)


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.title)
def test_at_sixty_columns_what_matters_is_there(view: View[Any]) -> None:
    kept = {column.key for column, _ in fit(view.columns, 56)}

    assert {column.key for column in view.columns if not column.keep} <= kept


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.title)
def test_keys_of_columns_are_unique(view: View[Any]) -> None:
    keys = [column.key for column in view.columns]

    assert len(keys) == len(set(keys))


def test_sick_workers_come_first() -> None:
    state = fleet()

    rows = ordered(select.WORKERS, select.worker_rows(state, NOW), Sorting())

    assert [row.diagnosis for row in rows] == ["lost", "wedged", "healthy"]


def test_the_longest_queue_comes_first() -> None:
    rows = ordered(select.QUEUES, select.queue_rows(fleet()), Sorting())

    assert [row.name for row in rows] == ["default", "reports", "etl"]


def test_a_column_can_be_sorted_by_both_ways() -> None:
    rows = select.queue_rows(fleet())

    names = [row.name for row in ordered(select.QUEUES, rows, Sorting("name", False))]

    assert names == sorted(names)
    assert [row.name for row in ordered(select.QUEUES, rows, Sorting("name", True))] == names[::-1]


def by(view: View[Any], column: str, rows: list[Any], *, down: bool = False) -> list[str]:
    return [row.key for row in ordered(view, rows, Sorting(column, down))]


def test_how_long_a_task_took_is_what_that_column_sorts_by() -> None:
    rows = [
        TaskLine("none", "", state="succeeded", finished_ms=NOW),
        TaskLine("short", "", state="succeeded", started_ms=NOW - 9_000, finished_ms=NOW - 8_000),
        TaskLine("long", "", state="succeeded", started_ms=NOW - 5_000, finished_ms=NOW),
    ]
    view = tasks.TABS["succeeded"]

    assert by(view, "took", rows, down=True) == ["long", "short", "none"]
    assert by(view, "took", rows) == ["short", "long", "none"]


def test_what_is_shown_is_what_is_sorted_by() -> None:
    half, tenth = TaskLine("a", "", state="running", progress="50%"), TaskLine("b", "", state="running", progress="9%")
    paused, up = WorkerLine("p", "p", diagnosis="healthy", paused_here=True), WorkerLine("u", "u", diagnosis="healthy")
    lost = WorkerLine("l", "l", diagnosis="lost", rss_bytes=9_000_000, in_flight=4)
    revoked = [TaskLine("x", "", state="revoked", message="zeta"), TaskLine("y", "", state="revoked", message="alpha")]

    assert by(tasks.RUNNING, "what", [half, tenth]) == ["b", "a"]
    assert by(tasks.TABS["revoked"], "what", revoked) == ["y", "x"]
    assert by(select.WORKERS, "state", [paused, WorkerLine("q", "q", diagnosis="healthy"), up]) == ["q", "u", "p"]
    assert by(select.WORKERS, "rss", [lost, WorkerLine("s", "s", diagnosis="busy", rss_bytes=1)], down=True)[0] == "s"


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.title)
def test_a_dash_is_sorted_last_whichever_way(view: View[Any]) -> None:
    row = {"task": TaskLine("a", "a"), "worker": WorkerLine("a", "a"), "queue": QueueLine("a", "a")}.get(view.kind)
    for column in view.columns if row is not None else ():
        if column.sort is not None and column.cell(row, NOW).text == "–":
            assert column.sort(row) is None, column.key


def test_rows_whose_first_are_known_are_sorted_only_where_somebody_looks_further() -> None:
    looked: list[int] = []

    def order(row: int) -> int:
        looked.append(row)
        return row

    rows = [row * 7 % 100 for row in range(100)]
    found = Ordered([0, 1, 2, 3], rows, order)

    assert (len(found), found[0], found[3], list(found[:4]), list(found[:1])) == (100, 0, 3, [0, 1, 2, 3], [0])
    assert looked == []
    assert (found[4], found[-1], list(found[:6]), list(found[2:5]), list(found[:-97])) == (
        *(4, 99, [0, 1, 2, 3, 4, 5]),
        *([2, 3, 4], [0, 1, 2]),
    )
    assert list(found) == sorted(rows)
    assert sorted(looked) == sorted(rows)
    with pytest.raises(IndexError):
        found[100]


def test_states_are_told_by_glyph_word_and_tone() -> None:
    state = fleet()
    signs = {row.name: select.queue_sign(row) for row in state.queues.values()}

    assert signs["reports"].cell == Cell("‖ paused", "warn")
    assert signs["default"].cell == Cell("▶ run", "ok")
    for table in (TASK, WORKER, QUEUE):
        assert all(sign.glyph and sign.word and sign.tone for sign in table.values())
        assert len({sign.glyph + sign.word for sign in table.values()}) == len(table)


def test_a_queue_that_nobody_serves_says_so() -> None:
    row = fleet().queues["reports"]
    row.paused = False

    assert select.queue_sign(row).word == "no worker"


def test_tabs_count_what_the_broker_counts() -> None:
    state = fleet()

    counts = {tab: tasks.tab_count(state, tab) for tab in tasks.TABS}

    assert counts == {
        "all": None, "running": 4, "queued": 13_282, "scheduled": 138, "retrying": 4, "held": 0, "dead": 2,
        "succeeded": None, "failed": None, "revoked": None, "expired": None,
    }  # fmt: skip
    assert tasks.tab_count(state, "queued", "reports") == 880


def test_an_hour_has_no_fewer_failures_than_five_minutes_of_it() -> None:
    state = fleet()
    for attempt in range(87):
        state.failures.add(
            task="mail.send", error="TimeoutError", task_id="t-1", attempt=attempt, at_ms=NOW - attempt * 1_000
        )

    words = [cell.text for cell in select.failure_note(state, NOW)]
    hour, minutes = (int(word.replace("≥ ", "").split()[0].replace(",", "")) for word in words[:2])

    assert minutes >= 87
    assert hour >= minutes
