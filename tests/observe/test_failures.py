"""Failures are grouped and counted once."""

from __future__ import annotations

from typing import Any

import pytest

from stem.observe import failures as module
from stem.observe.failures import KEPT_MS, FailureBook
from tests.observe.builders import NOW


def add(book: FailureBook, task_id: str, *, at_ms: int = NOW, attempt: int = 0, error: str = "E", **more: Any) -> bool:
    return book.add(task="t", error=error, task_id=task_id, attempt=attempt, at_ms=at_ms, **more)


def test_one_failure_told_by_event_and_by_history_counts_once() -> None:
    book = FailureBook()

    assert add(book, "a", message="boom")
    assert not add(book, "a", at_ms=NOW + 900)
    (group,) = book.groups(NOW)

    assert group.count(NOW) == 1
    assert group.message == "boom"


def test_each_attempt_counts_and_so_does_a_replayed_task() -> None:
    book = FailureBook()

    add(book, "a")
    add(book, "a", attempt=1)
    add(book, "a", at_ms=NOW + 120_000)

    assert book.groups(NOW + 120_000)[0].count(NOW + 120_000) == 3


def test_an_hour_is_kept_and_the_last_five_minutes_count_first() -> None:
    book = FailureBook()
    for number in range(9):
        add(book, f"a{number}", error="Before", at_ms=NOW - 400_000)
    add(book, "b", error="Now")
    add(book, "c", error="Long past", at_ms=NOW - 3_700_000)

    groups = book.groups(NOW)

    assert [group.error for group in groups] == ["Now", "Before"]
    assert [(group.count(NOW), group.count(NOW, KEPT_MS)) for group in groups] == [(1, 1), (0, 9)]


def test_what_is_counted_while_the_clock_stands_shows_at_once() -> None:
    book = FailureBook()
    add(book, "a")
    assert len(book.groups(NOW)) == 1

    add(book, "b", error="F")

    assert len(book.groups(NOW)) == 2


def test_the_greatest_group_comes_first() -> None:
    book = FailureBook()
    for number in range(3):
        add(book, f"a{number}", error="Often")
    add(book, "b", error="Once")

    assert [group.error for group in book.groups(NOW)] == ["Often", "Once"]


def test_groups_are_bounded_and_the_newest_stay() -> None:
    book = FailureBook()

    for number in range(700):
        add(book, f"a{number}", error=f"E{number}", at_ms=NOW + number)

    groups = book.groups(NOW + 700)
    assert len(groups) == 500
    assert {group.error for group in groups} >= {"E699", "E250"}


def test_what_the_clock_has_before_it_again_is_not_of_the_last_minutes() -> None:
    book = FailureBook()
    add(book, "a")
    (group,) = book.groups(NOW)

    assert group.count(NOW - 3_600_000) == 0
    assert group.count(NOW - 1_000) == 1


@pytest.mark.parametrize("lives", [2, 50])
def test_history_that_tells_again_of_a_replayed_task_counts_nothing_again(lives: int) -> None:
    """Each life fails with the same attempt, and each poll tells of all of them."""
    book = FailureBook()

    for _ in range(3):
        for life in range(lives):
            add(book, "a", at_ms=NOW + life * 61_000)

    end_ms = NOW + lives * 61_000
    assert book.groups(end_ms)[0].count(end_ms, KEPT_MS) == lives


def test_what_was_told_out_of_order_and_is_forgotten_counts_nothing_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SEEN", 2)
    book = FailureBook()
    told = [("late", NOW + 50), ("early", NOW), ("c", NOW + 60), ("d", NOW + 70)]
    for task_id, at_ms in told:
        add(book, task_id, at_ms=at_ms)

    for task_id, at_ms in told:
        add(book, task_id, at_ms=at_ms, again=True)

    assert book.groups(NOW + 100)[0].count(NOW + 100) == 4


def test_history_that_reaches_back_over_what_is_known_one_by_one_counts_nothing_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_SEEN", 10)
    book = FailureBook()
    for number in range(15):
        add(book, f"a{number}", at_ms=NOW + number)

    for number in range(15):
        add(book, f"a{number}", at_ms=NOW + number, again=True)
    assert book.groups(NOW)[0].count(NOW) == 15

    assert add(book, "missed", at_ms=NOW + 20, again=True)
    assert add(book, "late", at_ms=NOW), "an event tells of it once"
