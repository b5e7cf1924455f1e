"""Numbers and times keep a steady width and say what they mean."""

from __future__ import annotations

import pytest

from stem_tui import details, figures
from tests.observe.builders import NOW, fleet


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0"), (99_999, "99,999"), (100_000, "100k"), (1_234_567, "1.2M"), (45_600_000_000, "46G")]
)
def test_counts_are_exact_until_they_are_long(number: int, text: str) -> None:
    assert figures.count(number) == text


@pytest.mark.parametrize(("number", "text"), [(0, "0"), (0.44, "0.4"), (9.96, "10"), (4_911, "4.9k"), (999.7, "1.0k")])
def test_rates_have_two_figures_that_matter(number: float, text: str) -> None:
    assert figures.rate(number) == text


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (0, "0ms"), (41, "41ms"), (99.6, "0.1s"), (400, "0.4s"), (9_960, "10s"), (59_600, "1m00s"),
        (124_000, "2m04s"), (11_520_000, "3h12m"), (270_000_000, "3d03h"), (-5, "0ms"),
    ],
)  # fmt: skip
def test_spans_fit_in_six_characters(milliseconds: float, text: str) -> None:
    assert figures.span(milliseconds) == text
    assert len(text) <= 6


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (0, "~0ms"), (29, "~29ms"), (99.6, "~0.1s"), (1_620, "~1.6s"), (9_960, "~10s"), (59_600, "~1.0m"),
        (500_000, "~8.3m"), (3_590_000, "~1.0h"), (90_000_000, "~25h"), (270_000_000, "~3.1d"), (-5, "~0ms"),
    ],
)  # fmt: skip
def test_estimates_say_so_and_pretend_no_more_than_two_figures(milliseconds: float, text: str) -> None:
    assert figures.about(milliseconds) == text
    assert len(text) <= 6
    assert sum(each.isdigit() for each in text) <= 2


def test_ages_move_in_whole_seconds() -> None:
    assert figures.age(1_000, 1_900) == "0s"
    assert figures.age(1_000, 23_400) == "22s"
    assert figures.age(0, 5) == "–"


@pytest.mark.parametrize(("number", "text"), [(0, "–"), (900, "900B"), (222_298_112, "212M"), (2_040_109_466, "1.9G")])
def test_sizes(number: int, text: str) -> None:
    assert figures.size(number) == text


def test_a_chart_stands_on_zero() -> None:
    assert figures.spark([0, 0, 0], 5) == "  ▁▁▁"
    assert figures.spark([5_000, 5_000], 2) == "██"
    assert figures.spark([0, 50, 100], 3) == "▁▄█"
    assert figures.spark([1, 2], 0) == ""


def test_a_tall_chart_stands_on_zero_too() -> None:
    assert figures.chart([0, 50, 100], 4, 2) == ["   █", " ▁██"]
    assert figures.chart([0, 1, 1_000], 3, 1) == ["▁▂█"]
    assert figures.chart([], 3, 2) == ["   ", "   "]


def test_anything_above_nothing_shows_in_a_bar() -> None:
    assert figures.bar(0, 10, 5) == "░░░░░"
    assert figures.bar(1, 100, 5) == "█░░░░"
    assert figures.bar(20, 10, 5) == "█████"


@pytest.mark.parametrize("at_ms", [-5, 0, 10**18])
def test_impossible_times_are_shown_as_something(at_ms: int) -> None:
    assert figures.clock(at_ms)
    assert figures.date(at_ms)


def test_values_are_shown_line_by_line_and_clean() -> None:
    lines = figures.value_lines({"a": "\x1b[2J", "b": [1, b"\xff\x1b"]})

    assert lines[0] == "{"
    assert all(line.isprintable() for line in lines)


def test_of_a_long_text_the_end_is_kept() -> None:
    lines = figures.text_lines("\n".join(f"line {number}" for number in range(1_000)), limit=3)

    assert lines == ["… 997 lines before", "line 997", "line 998", "line 999"]


@pytest.mark.parametrize(
    "number", [float("inf"), float("nan"), -1.5, 1e306, 10**400, "12", None], ids=lambda it: str(it)[:9]
)
def test_a_worker_may_say_any_number_of_its_children(number: object) -> None:
    child = {"pid": 7, "age_s": number, "rss_bytes": number, "state": "busy"}

    lines = details.worker_lines(fleet().workers["api-7-ab12"], NOW, 100, stats={"children": [child]})

    assert any("pid 7" in cell.text for cell in lines[-1])
