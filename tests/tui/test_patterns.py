"""Patterns that somebody types: none holds the dashboard up, and ordinary ones are not refused."""

from __future__ import annotations

import time
from typing import Any

import pytest

from stem_tui import patterns
from stem_tui.patterns import CHARS, PatternError, searcher
from tests.tui.still import text_of
from tests.tui.test_deeds import app_over, stocked
from tests.waiting import eventually

EVIL = (
    r"(\w+\s?)+!", "(a+)+b", "(a*)*b", "(a|a)+b", "(a|aa)+b", r"(\d+|\w+)+!", "(x+x+)+y", "(.*)*!", "(?:a?){30}b",
    r"([a-z]+)*=", r"(?:(?:a+)b?)+!", "(a?b?)*c", "(?=(a+)+b)", "((a{1,50}){1,50}){1,50}b", r"(\w*)+?!",
    r"\w*\w*\w*\w*\w*!", ".*.*.*.*.*!", "a?" * 25 + "a" * 25, "(?:^){100000000}", "(?>(a+)+b)", r"(a+)(\1+)+b",
    "([^b]+)*b!", "(é+)+x", "(中|中)+x",
)  # fmt: skip
ORDINARY = (
    "^mail", "send$", r"\.send$", "foo.*bar", "foo.*bar.*baz", "(foo|bar)+", "(error|warning|fatal):",
    r"\d+\.\d+\.\d+\.\d+", r"(\d{1,3}\.){3}\d{1,3}", r"(\w+\.)+\w+", "[a-f0-9]{8}-", "t-[0-9]+",
    "(mail|etl)\\.(send|load)", "time ?out", "https?://",
    r"\bKeyError\b", "colou?r", "(very )*slow", ".*", "", "(a)(?(1)b|c)", r"'[^']*'", "(?:foo|f)+!",
    "[^a-z]+x", r"\S+\s+\S+", ".*timeout.*",
)  # fmt: skip


@pytest.mark.parametrize("pattern", EVIL)
def test_a_pattern_that_may_take_for_ever_is_refused(pattern: str) -> None:
    with pytest.raises(PatternError, match="may take for ever"):
        searcher(pattern)


@pytest.mark.parametrize("pattern", ORDINARY)
def test_an_ordinary_one_is_not_and_no_text_keeps_it_long(pattern: str) -> None:
    found = searcher(pattern)

    for text in ("a" * 300, "ab" * 150, "a." * 150, "foobar" * 50, "1.2." * 75, "a b " * 75, "'x" * 150, "é" * 300):
        began_s = time.process_time()
        found(text)
        assert time.process_time() - began_s < 5.0, text[:8]  # the evil ones take for ever


@pytest.mark.parametrize("pattern", [r"\w*\w*!", r"\w*\w*\w*!", ".*a.*a.*!", "a?a?a?a?a?a?a?!", r"(?=\w+!)\w+!"])
def test_what_takes_longer_searches_less_of_a_text(pattern: str) -> None:
    found = searcher(pattern)

    began_s = time.process_time()
    assert not found("a" * CHARS)
    assert time.process_time() - began_s < 5.0


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("FOO", "xfoox"), (r"\d+\.\d+\.\d+\.\d+", "host 10.0.3.7 refused"), ("foo.*bar", "Foo " + "x" * 200 + " bar"),
        ("timeout.*host.*refused", "Timeout: " + "x" * 100 + " host h refused"), ("(mail|etl)\\.load", "etl.load"),
    ],
)  # fmt: skip
def test_a_pattern_finds_what_it_says(pattern: str, text: str) -> None:
    assert searcher(pattern)(text)
    assert not searcher(pattern)("nothing of it")


@pytest.mark.parametrize("pattern", ["(", "[", "a{99999999999999999999}", "(" * 5_000 + ")" * 5_000, "*"])
def test_what_is_no_pattern_says_so(pattern: str) -> None:
    with pytest.raises(PatternError, match=r"is not a pattern|may take"):
        searcher(pattern)


def test_where_patterns_cannot_be_read_only_those_without_repeats_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(patterns, "importlib", type("Nothing", (), {"import_module": staticmethod(missing)}))

    assert searcher("^mail[.]send$")("mail.send")
    with pytest.raises(PatternError, match="may take for ever"):
        searcher("a+")


async def test_the_filter_line_refuses_it_and_escape_still_works() -> None:
    broker, made = await stocked("a" * 60)
    app = app_over(broker, made)
    async with app.run_test(size=(100, 30)) as pilot:
        await app.show_tasks("queued", "")
        await pilot.press("slash", *r"/(\w+\s?)+!/")
        await eventually(lambda: "may take for ever" in text_of(app))

        await pilot.press("escape")
        await pilot.press("1")
        await eventually(lambda: app.current_mode == "overview")
