"""The filter language."""

from __future__ import annotations

import pytest

from stem.observe.rows import TaskLine
from stem_tui.filter import FilterError, parse
from stem_tui.tasks import TABS, short_id
from tests.observe.builders import NOW

FIELDS = TABS["all"].fields


def task(**fields: object) -> TaskLine:
    row = TaskLine("0193-abc", "0193-abc", "mail.send", "default", "running", worker="api-7")
    row.enqueued_ms, row.started_ms = NOW - 60_000, NOW - 12_000
    for name, value in fields.items():
        setattr(row, name, value)
    return row


@pytest.mark.parametrize(
    "text",
    [
        "mail", "MAIL", "!report", "/^mail/", "name:mail.*", "name:send", "task:mail.send", "state:running",
        "state:run", "state:failed,running", "q:default", "queue:def", "w:api", "id:0193", "id:-abc", "id:ABC",
        "age>10s", "age<2m", "took>=12s", "took<1h", "tries=1", "mail q:default took>10s", "!state:failed !/etl/",
        "age>0.5m", '"mail.send"',
    ],
)  # fmt: skip
def test_these_let_the_row_through(text: str) -> None:
    test = parse(text, FIELDS)

    assert test is not None
    assert test(task(), NOW)


@pytest.mark.parametrize(
    "text",
    [
        "report", "!mail", "/^send/", "name:etl.*", "state:failed", "state:unning", "q:other", "id:193", "age>2m",
        "took>13s", "tries>1", "mail q:other", "!/mail/",
    ],
)  # fmt: skip
def test_these_do_not(text: str) -> None:
    test = parse(text, FIELDS)

    assert test is not None
    assert not test(task(), NOW)


@pytest.mark.parametrize("text", ["state:failed", "state:fail", "s:f", "state:run,fail", "state:dead"])
def test_a_dead_letter_is_a_failed_task_from_the_first_letter_on(text: str) -> None:
    """Typed letter by letter it came, went and came back."""
    test = parse(text, FIELDS)

    assert test is not None
    dead = task()
    dead.state = "dead"
    assert test(dead, NOW)


@pytest.mark.parametrize("text", ["", "   "])
def test_nothing_is_no_filter(text: str) -> None:
    assert parse(text, FIELDS) is None


@pytest.mark.parametrize("text", ["/(/", "nosuch:x", "nosuch>3", "age>soon", "name:", "state:,"])
def test_a_bad_filter_says_what_is_wrong(text: str) -> None:
    with pytest.raises(FilterError, match=r"\w"):
        parse(text, FIELDS)


def test_an_id_is_found_by_what_lists_show_of_it() -> None:
    row = task(id="0193f2c1-7a41-7c1e-9d57-b3a12e0581bd")
    test = parse(f"id:{short_id(row)}", FIELDS)

    assert test is not None
    assert short_id(row) == "2e0581bd"
    assert test(row, NOW)
    assert not test(task(), NOW)


def test_a_missing_number_passes_no_comparison() -> None:
    test = parse("took>1s", FIELDS)

    assert test is not None
    assert not test(task(started_ms=0), NOW)


def test_quotes_and_lone_signs_are_words() -> None:
    for text in ("!", "/", "a/b", ":", ">", "x:", '"', "!!mail"):
        try:
            parse(text, FIELDS)
        except FilterError:
            continue
