"""The codec: what may be packed, and how untrusted bytes become plain values or one named error."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from typing import Any

import msgpack
import pytest

from stem.errors import BodyTooLargeError, DecodeError, InvalidArgumentsError, NewerVersionError
from stem.messages.codec import MAX_BODY, MAX_DEPTH, VERSION, Fields, flaw_in, pack, unpack
from stem.messages.command import Command, Reply
from stem.messages.envelope import Envelope
from stem.messages.event import Event, decode_events, encode_events
from stem.messages.heartbeat import Heartbeat
from stem.messages.status import ErrorInfo, TaskState, TaskStatus


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [None, True, False, 0, -1, 2**63 - 1, -(2**63), 2**64 - 1, 1.5, "", "grüße \x00\n", b"", b"\x00\xff", [], {}],
    ids=repr,
)
def test_plain_values_come_back_as_they_were(value: object) -> None:
    assert unpack(pack(value)) == value
    assert unpack(pack({"k": [value]})) == {"k": [value]}


def test_a_tuple_comes_back_as_a_list() -> None:
    """There is one kind of sequence on the wire."""
    assert unpack(pack((1, (2, 3)))) == [1, [2, 3]]


@pytest.mark.parametrize(
    "value", [object(), {1, 2}, 2**64, -(2**63) - 1, "\ud800", {"k": len}], ids=lambda value: type(value).__name__
)
def test_what_cannot_travel_is_refused_before_it_is_sent(value: object) -> None:
    with pytest.raises(InvalidArgumentsError, match=r"^the arguments cannot be encoded"):
        pack(value, what="the arguments")


def test_nesting_has_a_limit_both_ways() -> None:
    """32 levels pass, 33 do not, in lists and in maps."""
    assert unpack(pack(nested(MAX_DEPTH))) == nested(MAX_DEPTH)
    with pytest.raises(InvalidArgumentsError, match="deeper than 32"):
        pack(nested(MAX_DEPTH + 1))
    with pytest.raises(DecodeError, match="deeper than 32"):
        unpack(msgpack.packb(nested(MAX_DEPTH + 1)))
    with pytest.raises(DecodeError):
        unpack(b"\x91" * 100_000 + b"\x01")
    with pytest.raises(DecodeError):
        unpack(b"\x81\xa1k" * 600 + b"\x01")


def test_endless_nesting_is_refused_when_packing() -> None:
    loop: list[Any] = []
    loop.append(loop)

    with pytest.raises(InvalidArgumentsError):
        pack(loop)


def test_depth_counts_containers_only() -> None:
    assert flaw_in("text", 0) is None
    assert flaw_in([1], 1) is None
    assert flaw_in([[1]], 1) == "nests deeper than 32 levels"
    assert flaw_in({"a": {"b": [1]}}, 2) == "nests deeper than 32 levels"


def test_size_has_a_limit_both_ways() -> None:
    """Too long is an error that says how long and what to do; exactly the limit passes."""
    assert len(pack(b"x" * 94, limit=96)) == 96
    with pytest.raises(BodyTooLargeError, match="the result is 97 bytes, the limit is 96"):
        pack(b"x" * 95, limit=96, what="the result")
    with pytest.raises(DecodeError, match="the limit is 10"):
        unpack(b"\x00" * 11, limit=10)
    with pytest.raises(DecodeError, match=str(MAX_BODY)):
        unpack(b"\x00" * (MAX_BODY + 1))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x01\x02",
        b"\x81",
        b"\xa5abc",
        b"\xa2\xff\xfe",
        b"\x81\x01\x02",
        b"\x81\xc0\x01",
        b"\x81\x90\x01",
        b"\x81\x81\xa1a\x01\x01",
        b"\xd4\x05\x00",
        b"\xd6\xff\x00\x00\x00\x00",
        b"\xc7\x0c\xff" + b"\xff" * 12,
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xc9\xff\xff\xff\xff\x01",
    ],
    ids=lambda data: data[:8].hex() or "empty",
)
def test_hostile_bytes_are_one_kind_of_error(data: bytes) -> None:
    """Truncated, trailing, ill-typed, huge and extension data; the message names what it was, and shows no bytes."""
    with pytest.raises(DecodeError, match=r"^envelope\b") as caught:
        unpack(data, what="envelope")

    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("seconds", [1, 2**33, 2**35])
def test_a_timestamp_is_refused_both_ways(seconds: int) -> None:
    """An extension type like others, at any depth; bytes that only look like one are not."""
    stamp = msgpack.Timestamp(seconds, 7)

    with pytest.raises(DecodeError, match=r"message: .*timestamp"):
        unpack(msgpack.packb({"a": [stamp]}))
    with pytest.raises(InvalidArgumentsError, match="timestamp"):
        pack({"a": [stamp]})
    assert unpack(pack([b"\xd6\xff\xd7\xff\xc7\x0c\xff"])) == [b"\xd6\xff\xd7\xff\xc7\x0c\xff"]


@pytest.mark.parametrize("key", [1, None, b"k", 1.5, True], ids=repr)
def test_map_keys_are_text_both_ways(key: object) -> None:
    """What could not be read again is refused where it is written, at any depth."""
    with pytest.raises(InvalidArgumentsError, match="map key that is not text"):
        pack({"args": [{key: 1}]})
    with pytest.raises(DecodeError):
        unpack(msgpack.packb({"args": [{key: 1}]}))


GETTERS: dict[str, tuple[Callable[[Fields], object], list[object]]] = {
    "text": (lambda fields: fields.text("k"), [1, None, b"x", [], {}, True, 1.5]),
    "optional_text": (lambda fields: fields.optional_text("k"), [1, b"x", [], {}, True]),
    "integer": (lambda fields: fields.integer("k"), ["1", None, 1.0, True, [], b"1"]),
    "optional_integer": (lambda fields: fields.optional_integer("k"), ["1", 1.0, True, []]),
    "number": (lambda fields: fields.number("k"), ["1", None, True, []]),
    "optional_number": (lambda fields: fields.optional_number("k"), ["1", True, []]),
    "boolean": (lambda fields: fields.boolean("k"), [0, 1, None, "true", []]),
    "bytes": (lambda fields: fields.bytes_("k"), ["x", None, 1, []]),
    "mapping": (lambda fields: fields.mapping("k"), [1, "x", [], [["a", 1]], {b"a": 1}, {1: 2}]),
    "texts": (lambda fields: fields.texts("k"), [1, "x", {}, ["a", 1], [None], [b"a"]]),
    "maps": (lambda fields: fields.maps("k"), [1, "x", {}, [1], [[]], [{}, None]]),
}


@pytest.mark.parametrize("getter", GETTERS)
def test_a_wrong_type_is_named_with_its_field(getter: str) -> None:
    """Each getter says which message and which field; it never lets a wrong type through."""
    read, wrong = GETTERS[getter]
    for value in wrong:
        with pytest.raises(DecodeError, match=r"^heartbeat\b.*\bk\b"):
            read(Fields({"k": value}, "heartbeat"))


@pytest.mark.parametrize("getter", ["text", "integer", "number", "boolean", "bytes"])
def test_a_missing_field_is_named(getter: str) -> None:
    with pytest.raises(DecodeError, match="'k' is missing"):
        GETTERS[getter][0](Fields({}, "heartbeat"))


@pytest.mark.parametrize("value", [None, 1, "x", [], b""])
def test_a_message_must_be_a_map(value: object) -> None:
    with pytest.raises(DecodeError, match="event is not a map"):
        Fields.of(pack(value), "event")


@pytest.mark.parametrize("version", [None, "1", 1.0, True, []])
def test_a_version_must_be_a_number(version: object) -> None:
    with pytest.raises(DecodeError, match="'v'"):
        Fields.of(pack({"v": version}), "event")


def a_heartbeat(**set_: Any) -> Heartbeat:
    return Heartbeat(
        **{
            "id": "host-1-abc",
            "name": "alpha",
            "started_at_ms": 5,
            "host": "h",
            "pid": 1,
            "version": "0",
            "queues": ("a", "b"),
            **set_,
        }
    )


# Each message with its decoder, and a full example of it.
MESSAGES: dict[str, tuple[bytes, Callable[[bytes], object]]] = {
    "envelope": (
        Envelope(
            id="t-1",
            task="job",
            args={"n": [1, {"x": b"\x00"}]},
            headers={"trace": "1"},
            meta={"m": None},
            options={"queue": "q"},
            delay_ms=5,
            expires_ms=6,
            produced_at_ms=7,
            root="r",
            parent="p",
        ).encode(),
        Envelope.decode,
    ),
    "status": (
        TaskStatus(
            id="t-1",
            task="job",
            queue="q",
            state=TaskState.FAILED,
            token=3,
            worker="w",
            error=ErrorInfo(type="E", message="m", traceback="tb"),
            reason="failed",
        ).encode(),
        TaskStatus.decode,
    ),
    "heartbeat": (a_heartbeat(counters={"succeeded": 1}).encode(), Heartbeat.decode),
    "command": (Command(id="c-1", type="ping", targets=("w",), args={"nonce": "n"}).encode(), Command.decode),
    "reply": (Reply(command_id="c-1", worker="w", name="n", stage="applied", data={"a": 1}).encode(), Reply.decode),
    "event batch": (
        encode_events([Event(kind="task.started", at_ms=1, worker="w", seq=1, detail={"d": 1})]),
        decode_events,
    ),
    "error": (ErrorInfo(type="E", message="m", traceback="tb").encode(), ErrorInfo.decode),
}
VERSIONED = [name for name in MESSAGES if name != "error"]


@pytest.mark.parametrize("name", VERSIONED)
def test_a_newer_version_is_told_apart_from_rubbish(name: str) -> None:
    """So that a worker can give it back for a newer one instead of burying it."""
    data, decode = MESSAGES[name]

    with pytest.raises(NewerVersionError, match=f"version {VERSION + 1}.*upgrade"):
        decode(pack({**unpack(data), "v": VERSION + 1}))


@pytest.mark.parametrize("name", VERSIONED)
def test_unknown_keys_are_ignored(name: str) -> None:
    """A later minor version may add some."""
    data, decode = MESSAGES[name]

    assert decode(pack({**unpack(data), "later": {"deep": [1]}, "": None})) == decode(data)


@pytest.mark.parametrize("name", MESSAGES)
def test_every_wrong_type_in_every_field_is_a_decode_error(name: str) -> None:
    """Put every kind of value into every field, at every depth: it decodes, or it is a DecodeError."""
    data, decode = MESSAGES[name]
    values: list[Any] = [
        None,
        True,
        0,
        -1,
        2**64 - 1,
        1.5,
        float("nan"),
        "",
        "x" * 300,
        b"\xff",
        [],
        [None],
        {},
        {"a": []},
    ]

    def poke(value: Any, put: Callable[[Any], None]) -> None:
        for wrong in values:
            put(wrong)
            with contextlib.suppress(DecodeError):
                decode(msgpack.packb(plain))
        put(value)
        if isinstance(value, dict):
            for key in list(value):
                poke(value[key], lambda new, key=key: value.__setitem__(key, new))  # type: ignore[misc]
        elif isinstance(value, list):
            for index in range(len(value)):
                poke(value[index], lambda new, index=index: value.__setitem__(index, new))  # type: ignore[misc]

    plain = unpack(data)
    for key in list(plain):
        poke(plain[key], lambda new, key=key: plain.__setitem__(key, new))  # type: ignore[misc]


@pytest.mark.parametrize("name", MESSAGES)
def test_damaged_messages_are_decode_errors(name: str) -> None:
    """Cut off, bits flipped, bytes inserted and removed, 1 500 times: a value or a DecodeError, nothing else."""
    data, decode = MESSAGES[name]
    dice = random.Random(f"stem {name}")
    for _ in range(1_500):
        damaged = bytearray(data)
        for _ in range(dice.randint(1, 4)):
            at = dice.randrange(len(damaged)) if damaged else 0
            match dice.randrange(4):
                case 0 if damaged:
                    damaged[at] ^= 1 << dice.randrange(8)
                case 1 if damaged:
                    del damaged[at]
                case 2:
                    damaged.insert(at, dice.randrange(256))
                case _:
                    damaged = damaged[:at]
        with contextlib.suppress(DecodeError):
            decode(bytes(damaged))
