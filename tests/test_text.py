"""Untrusted text becomes one harmless line."""

from __future__ import annotations

import unicodedata

import pytest

from stem.text import clean, safe_url

NASTY = {
    "escape": ("a\x1b[2Jb", r"a\x1b[2Jb"),
    "clipboard": ("\x1b]52;c;ZXZpbA==\x07", r"\x1b]52;c;ZXZpbA==\x07"),
    "C1 CSI": ("\x9b31m", r"\x9b31m"),
    "DEL": ("a\x7f", r"a\x7f"),
    "NUL": ("a\0b", r"a\x00b"),
    "newlines": ("a\r\nb\tc", r"a\r\nb\tc"),
    "bidi override": ("a\u202eb", r"a\u202eb"),
    "bidi isolate": ("\u2066x\u2069", r"\u2066x\u2069"),
    "arabic letter mark": ("\u061c", r"\u061c"),
    "zero width": ("a\u200bb\u200d\ufeff", r"a\u200bb\u200d\ufeff"),
    "line separators": ("a\u2028b\u2029", r"a\u2028b\u2029"),
    "next line": ("a\x85b", r"a\x85b"),
    "lone surrogate": ("a\ud800b", r"a\ud800b"),
    "private use": ("\ue000", r"\ue000"),
    "unassigned": ("\U000e0fff", r"\U000e0fff"),
    "tags": ("\U000e0041", r"\U000e0041"),
    "soft hyphen": ("a\u00adb", r"a\xadb"),
    "hangul filler": ("a\u3164b", r"a\u3164b"),
}


@pytest.mark.parametrize(("text", "shown"), NASTY.values(), ids=NASTY.keys())
def test_hidden_and_steering_characters_become_visible(text: str, shown: str) -> None:
    assert shown == clean(text)


@pytest.mark.parametrize("text", ["", "plain", "[red]markup[/red]", "é ☃ 日本語 Ω", "back\\slash"])
def test_harmless_text_stays_as_it_is(text: str) -> None:
    assert text == clean(text)


def test_every_character_of_unicode_comes_out_printable_on_one_line() -> None:
    hidden = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}

    for code in range(0x110000):
        shown = clean(chr(code))
        assert not any(unicodedata.category(each) in hidden for each in shown), hex(code)


@pytest.mark.parametrize("limit", [0, 1, 2, 5, 10, 199, 200])
@pytest.mark.parametrize("text", ["a" * 500, "\x1b" * 500, "é" * 500, "a\x1b" * 300])
def test_long_text_is_cut_to_the_limit_with_an_ellipsis(text: str, limit: int) -> None:
    shown = clean(text, limit)

    assert len(shown) <= limit
    assert limit == 0 or shown.endswith("…")


def test_text_of_exactly_the_limit_is_not_cut() -> None:
    assert clean("é" * 10, 10) == "é" * 10
    assert clean("é" * 11, 10) == "é" * 9 + "…"


def test_an_escape_is_never_cut_in_two() -> None:
    assert clean("abc\x1b\x1b", 6) == "abc…"


def test_other_objects_are_shown_as_their_text() -> None:
    assert clean(12) == "12"
    assert clean(b"a\x1b") == r"a\x1b"
    assert clean(b"\xff") == r"\xff"


def test_an_object_whose_text_fails_is_named() -> None:
    class Bad:
        def __str__(self) -> str:
            raise RuntimeError("no")

    assert clean(Bad()) == "<Bad without text: RuntimeError>"


URLS = {
    "redis://localhost:6379/0": "redis://localhost:6379/0",
    "redis://:secret@h:1/0": "redis://:***@h:1/0",
    "redis://user:secret@h/1": "redis://user:***@h/1",
    "redis://user@h/1": "redis://user@h/1",
    "redis://:se@cr@et@h:1": "redis://:***@h:1",
    "redis://:secret/with@slash@h:1": "redis://:***@h:1",
    "redis://:secret?with@h:1": "redis://:***@h:1",
    "redis://:secret#with@h:1": "redis://:***@h:1",
    "redis://h:secret": "redis://h:***",
    "redis://[::1]:6379/0": "redis://[::1]:6379/0",
    "redis://h/0?password=secret&db=1": "redis://h/0?password=***&db=1",
    "unix:///tmp/a@b.sock": "unix:///tmp/a@b.sock",
    "user:secret@host": "user:***@host",
    "memory://": "memory://",
    "redis://h/\x1b[2J": r"redis://h/\x1b[2J",
}


@pytest.mark.parametrize(("url", "shown"), URLS.items())
def test_a_url_is_shown_without_its_password(url: str, shown: str) -> None:
    assert shown == safe_url(url)
    assert "secret" not in safe_url(url)
