"""Paths to arguments, what is shown in their place, and their values in other text."""

from __future__ import annotations

import json
from typing import Any

import pytest

from stem.config import StemConfig
from stem.errors import InvalidInputError
from stem.messages.envelope import Envelope
from stem.options import TaskOptions
from stem.producer import Producer
from stem.redaction import HIDDEN, MOST_VALUES, NO_VEIL, Veil, check_paths, masked, travelled_paths
from stem.registry import SimpleTaskRegistry
from stem.task import Signature


@pytest.mark.parametrize(
    ("args", "paths", "shown"),
    [
        ({"password": "x", "user": "ada"}, ["password"], {"password": HIDDEN, "user": "ada"}),
        ({"card": {"number": 1, "name": "A"}}, ["card.number"], {"card": {"number": HIDDEN, "name": "A"}}),
        ({"card": {"number": 1}}, ["card"], {"card": HIDDEN}),
        ({"cards": [{"n": 1}, {"n": 2}, 3]}, ["cards.n"], {"cards": [{"n": HIDDEN}, {"n": HIDDEN}, 3]}),
        ({"a.b": 1, "a": {"b": 2}}, ["a.b"], {"a.b": HIDDEN, "a": {"b": HIDDEN}}),
        ({"a": {"b.c": {"d": 1}}}, ["a.b.c.d"], {"a": {"b.c": {"d": HIDDEN}}}),
        ({"none": None, "on": False}, ["none", "on"], {"none": HIDDEN, "on": HIDDEN}),
        ({"card": "text"}, ["card.number", "elsewhere"], {"card": "text"}),
    ],
)
def test_a_path_leads_through_maps_and_lists(args: dict[str, Any], paths: list[str], shown: dict[str, Any]) -> None:
    before = json.dumps(args)

    assert masked(args, paths) == shown
    assert json.dumps(args) == before


SECRET = 'p4ss/wörd "quoted" \\ & more'


@pytest.mark.parametrize(
    "text",
    [
        SECRET,
        f"login with {SECRET} failed",
        f"{ {'password': SECRET}!r}",
        ascii({"password": SECRET}),
        json.dumps({"password": SECRET}),
        f"{SECRET.encode()!r}".replace(repr(SECRET.encode())[2:-1], SECRET),
        "GET /?p=p4ss/w%C3%B6rd%20%22quoted%22%20%5C%20%26%20more",
        "GET /?p=p4ss%2Fw%C3%B6rd+%22quoted%22+%5C+%26+more",
    ],
)
def test_a_value_is_hidden_as_people_and_programs_write_it(text: str) -> None:
    veil = Veil({"password": SECRET}, ["password"])

    assert HIDDEN in veil.text(text)
    assert "quoted" not in veil.text(text)


BINARY = b"\x8f\x12\x01secretkey\xfe"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (BINARY, f"cannot use {BINARY!r}"),
        (BINARY, f"{ {'key': [bytearray(BINARY)]}!r}"),
        (BINARY, "GET /?key=%8F%12%01secretkey%FE"),
        (BINARY, BINARY.decode(errors="backslashreplace")),
        (b"\xff\xfe1\nsecretkey\xfe\n", f"{b'first'!r}, {b'secretkey' + bytes([0xFE])!r}"),
        ("pässwort", f"cannot use {'pässwort'.encode()!r}"),
        ("pässwort".encode(), f"cannot use {'pässwort'.encode()!r}"),
        ("pässwort".encode(), "cannot use pässwort"),
    ],
)
def test_bytes_are_hidden_as_python_and_urls_write_them(value: str | bytes, text: str) -> None:
    hidden = Veil({"key": value}, ["key"]).text(text)

    assert HIDDEN in hidden
    for part in ("secretkey", "ss", "cret"):
        assert part not in hidden


def test_short_values_are_left_and_numbers_of_six_digits_hidden() -> None:
    veil = Veil(
        {"pin": "123", "cvc": 123, "card": {"n": 4111111111111111}, "blank": "     "}, ["pin", "cvc", "card", "blank"]
    )

    assert veil.text("pin 123, card 4111111111111111     end") == f"pin 123, card {HIDDEN}     end"


def test_each_line_of_a_long_text_is_hidden() -> None:
    """A traceback of a group puts a bar before each line."""
    key = "-----BEGIN KEY-----\nabcdef123456\nghijkl7890\n"

    hidden = Veil({"key": key}, ["key"]).text("  | " + key.replace("\n", "\n  | "))

    assert "abcdef" not in hidden
    assert "ghijkl" not in hidden


def test_a_longer_value_goes_before_its_part() -> None:
    veil = Veil({"a": "secret", "b": "secret-and-more"}, ["a", "b"])

    assert veil.text("secret-and-more secret") == f"{HIDDEN} {HIDDEN}"


def test_data_is_searched_to_its_leaves() -> None:
    veil = Veil({"a": "topsecret", "n": 1234567}, ["a", "n"])

    assert veil.data({"k": ["x topsecret", b"topsecret", 1234567, 7, 1.5, None, True], "topsecret": 1}) == {
        "k": [f"x {HIDDEN}", HIDDEN.encode(), HIDDEN, 7, 1.5, None, True],
        HIDDEN: 1,
    }


def test_with_too_many_values_the_whole_text_is_hidden() -> None:
    veil = Veil({"rows": [f"value-{n}" for n in range(MOST_VALUES + 1)]}, ["rows"])

    assert veil
    assert veil.text("nothing of it") == HIDDEN


def test_without_values_nothing_changes() -> None:
    assert not NO_VEIL
    assert not Veil({"a": "topsecret"}, ["b"])
    assert NO_VEIL.data({"a": 1}) == {"a": 1}


@pytest.mark.parametrize("wrong", ["password", [""], ["a\nb"], [1], ["x" * 201], [str(n) for n in range(101)], 7, None])
def test_what_is_no_list_of_names_is_refused(wrong: Any) -> None:
    with pytest.raises(InvalidInputError, match="redact"):
        check_paths(wrong)
    with pytest.raises(InvalidInputError, match="redact"):
        TaskOptions(redact=wrong)


def producer(options: TaskOptions) -> Producer:
    """Return a producer whose registry has the task `pay` with these options."""

    class Pay:
        name = "pay"

        def __init__(self) -> None:
            self.options = options

        def __call__(self, context: object, args: object) -> None:
            return None

    registry = SimpleTaskRegistry()
    registry.register(Pay())
    return Producer(registry=registry, signer=None, config=StemConfig(), namespace="n")


def test_what_producer_and_handler_hide_adds_up() -> None:
    making = producer(TaskOptions(redact=["card"], max_retries=7))
    plain = Envelope.decode(making.prepare(Signature(name="pay")).body)
    more = Envelope.decode(making.prepare(Signature(name="pay", options=TaskOptions(redact=["pin"]))).body)

    assert plain.options == {"redact": ["card"]}
    assert more.options == {"redact": ["card", "pin"]}
    assert TaskOptions(redact=["a"]).over(TaskOptions(redact=["b"], max_retries=1)).redact == ("a", "b")
    assert TaskOptions.from_travelled(more.options).redact == ("card", "pin")


def test_what_the_handler_hides_travels_with_a_chosen_id_too() -> None:
    """No worker may have told of the names yet: a reader has them from the body alone."""
    request = Signature(name="pay", task_id="charge-1")

    bodies = [producer(TaskOptions(redact=names)).prepare(request).body for names in (["card", "pin"], ["pin", "card"])]

    assert Envelope.decode(bodies[0]).options == {"redact": ["card", "pin"]}
    assert bodies[0] == bodies[1]


@pytest.mark.parametrize("spoilt", [None, 7, "card", [1, "", "a\n"], {"a": 1}])
def test_spoilt_names_in_a_body_are_left_out(spoilt: Any) -> None:
    assert travelled_paths({"redact": spoilt}) == ()
    assert travelled_paths({}) == ()


def test_a_value_is_found_as_json_with_its_own_letters() -> None:
    """As clients write bodies which do not escape what is no ASCII."""
    value = 'p\u00e4"ss-wort'
    veil = Veil({"password": value}, ["password"])

    assert veil.text(json.dumps({"password": value}, ensure_ascii=False)) == '{"password": "***"}'
