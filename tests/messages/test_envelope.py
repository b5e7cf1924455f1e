"""The envelope: written once, read strictly; and task ids."""

from __future__ import annotations

import re
import threading
import time
import uuid
from typing import Any

import pytest

from stem.errors import BodyTooLargeError, DecodeError, InvalidArgumentsError
from stem.messages.codec import pack, unpack
from stem.messages.envelope import Envelope, new_task_id
from stem.messages.names import is_name


def an_envelope(**set_: Any) -> Envelope:
    return Envelope(**{"id": "t-1", "task": "mail.send", **set_})


FULL = an_envelope(
    args={"to": "ada", "n": 3, "raw": b"\x00\xff", "deep": [{"a": None}]},
    headers={"trace": "00-ab"},
    meta={"tenant": {"id": 7}},
    options={"queue": "mail", "max_retries": 5},
    eta_ms=1_750_000_000_000,
    expires_in_ms=60_000,
    produced_at_ms=1_700_000_000_000,
    root="r-1",
    parent="p-1",
)


@pytest.mark.parametrize("envelope", [an_envelope(), FULL], ids=["bare", "full"])
def test_an_envelope_comes_back_as_it_was(envelope: Envelope) -> None:
    assert Envelope.decode(envelope.encode()) == envelope


def test_the_same_envelope_is_the_same_bytes() -> None:
    """The signature is over these bytes, and a repeated enqueue compares them."""
    assert FULL.encode() == Envelope.decode(FULL.encode()).encode()


def test_what_was_not_set_does_not_travel() -> None:
    """The rest comes from the handler, then the configuration."""
    assert set(unpack(an_envelope().encode())) == {"v", "id", "task", "args", "produced_at"}


def test_the_recorded_bytes_of_version_1_are_still_read() -> None:
    """A wire change must bump the version; these bytes were written by the first one."""
    recorded = (
        "86a17601a26964a3742d31a47461736ba96d61696c2e73656e64a46172677381a2746fa3616461a87072696f7269747905"
        "ab70726f64756365645f6174cd03e8"
    )

    envelope = Envelope.decode(bytes.fromhex(recorded))

    assert envelope == an_envelope(args={"to": "ada"}, produced_at_ms=1_000)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", 1),
        ("id", ""),
        ("id", "a b"),
        ("id", "x" * 65),
        ("task", None),
        ("task", "a\nb"),
        ("args", [1]),
        ("args", "x"),
        ("headers", {"a": 1}),
        ("headers", []),
        ("meta", "x"),
        ("options", 5),
        ("delay_ms", "5"),
        ("eta_ms", 1.5),
        ("expires_in_ms", True),
        ("expires_ms", []),
        ("root", 1),
        ("parent", {}),
        ("produced_at", "now"),
    ],
)
def test_a_wrong_field_is_named(field: str, value: object) -> None:
    body = {**unpack(FULL.encode()), field: value}

    with pytest.raises(DecodeError, match=f"envelope.*'{field}'"):
        Envelope.decode(pack(body))


@pytest.mark.parametrize("field", ["id", "task"])
def test_a_field_that_must_be_there_is_missed(field: str) -> None:
    body = unpack(FULL.encode())
    del body[field]

    with pytest.raises(DecodeError, match=f"'{field}' is missing"):
        Envelope.decode(pack(body))


def test_arguments_that_cannot_travel_name_the_task() -> None:
    with pytest.raises(InvalidArgumentsError, match=r"the body of task mail\.send"):
        an_envelope(args={"to": object()}).encode()


def test_a_body_over_the_limit_names_the_task_and_the_limit() -> None:
    with pytest.raises(BodyTooLargeError, match=r"mail\.send is \d+ bytes, the limit is 1000"):
        an_envelope(args={"text": "x" * 1_000}).encode(limit=1_000)
    with pytest.raises(DecodeError, match="the limit is 10"):
        Envelope.decode(FULL.encode(), limit=10)


def test_a_task_id_is_a_uuid_of_version_7() -> None:
    """With the time of now in its first 48 bits."""
    before = time.time_ns() // 1_000_000
    text = new_task_id()
    after = time.time_ns() // 1_000_000
    value = uuid.UUID(text)

    assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", text)
    assert (value.version, value.variant) == (7, uuid.RFC_4122)
    assert before <= value.int >> 80 <= after
    assert is_name("task id", text)


def test_task_ids_are_ordered_by_the_millisecond() -> None:
    """Later ids sort after earlier ones as text."""
    first = new_task_id()
    deadline = time.time_ns() // 1_000_000 + 2
    while time.time_ns() // 1_000_000 < deadline:
        pass

    assert first < new_task_id()


def test_task_ids_do_not_repeat() -> None:
    """Also when several threads make them in the same millisecond."""
    made: list[str] = []
    threads = [threading.Thread(target=lambda: made.extend(new_task_id() for _ in range(5_000))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(set(made)) == 20_000
