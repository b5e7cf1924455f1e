"""Names: what is one, what is not, and how the refusal reads."""

from __future__ import annotations

import pytest

from stem.errors import InvalidInputError, InvalidNameError
from stem.messages.names import Kind, check_name, is_name

HOSTILE = [
    "",
    " ",
    "a b",
    "a\n",
    "\na",
    "a\x00",
    "a{b}",
    "a*",
    "é",
    "\u202eabc",
    "\ud800",
    "a" * 201,
    "*",
    "a;b",
    "a\tb",
    "a'b",
    None,
    1,
    b"a",
    ["a"],
]
KINDS: list[Kind] = ["namespace", "queue", "worker", "task", "task id", "unique key"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["a", "A-1_b.c", "0", "a" * 64, "...", "-"])
def test_plain_names_are_names(kind: Kind, name: str) -> None:
    assert is_name(kind, name)
    assert check_name(kind, name) == name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", HOSTILE, ids=lambda name: ascii(name)[:20])
def test_other_things_are_not(kind: Kind, name: object) -> None:
    """Refused by name; the message shows the value escaped and short, and says what is accepted."""
    assert not is_name(kind, name)
    with pytest.raises(InvalidNameError, match=f"is not a {kind} name: use 1 to") as caught:
        check_name(kind, name)

    shown = str(caught.value)
    assert shown.isascii()
    assert shown.isprintable()
    assert len(shown) < 200
    assert isinstance(caught.value, InvalidInputError)


@pytest.mark.parametrize("kind", ["namespace", "queue", "worker", "task id"])
@pytest.mark.parametrize("name", ["a:b", "a/b", "a" * 65])
def test_what_becomes_part_of_a_key_is_narrower(kind: Kind, name: str) -> None:
    """No colon, no slash, at most 64."""
    assert not is_name(kind, name)


@pytest.mark.parametrize("kind", ["task", "unique key"])
@pytest.mark.parametrize("name", ["a:b", "mail/send", "app.tasks:build-report", "a" * 200])
def test_task_names_and_unique_keys_are_wider(kind: Kind, name: str) -> None:
    assert is_name(kind, name)
