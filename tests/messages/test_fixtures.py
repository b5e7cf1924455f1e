"""What was ever written can still be read: recorded bytes of each version, and what they meant."""

from __future__ import annotations

import base64
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from stem.errors import NewerVersionError
from stem.messages.codec import VERSION, pack, unpack
from stem.messages.command import Command, Reply
from stem.messages.envelope import Envelope
from stem.messages.event import Event
from stem.messages.heartbeat import Heartbeat
from stem.messages.status import ErrorInfo, TaskStatus
from stem.signing import PayloadSigner
from tests.messages.fixtures.record import CASES, DECODERS, FOLDER, encode, plain, record

RECORDED = sorted(FOLDER.glob("v*/*.hex"))
MESSAGES = [path for path in RECORDED if path.stem.partition("-")[0] in DECODERS]
TYPES = {
    "envelope": Envelope,
    "events": Event,
    "heartbeat": Heartbeat,
    "command": Command,
    "reply": Reply,
    "status": TaskStatus,
    "error": ErrorInfo,
}


def name_of(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


def kind_of(path: Path) -> str:
    return path.stem.partition("-")[0]


def bytes_of(path: Path) -> bytes:
    return bytes.fromhex(path.read_text(encoding="ascii"))


def meaning_of(path: Path) -> Any:
    return json.loads(path.with_suffix(".json").read_text(encoding="ascii"))


def test_every_version_so_far_has_every_kind_of_message() -> None:
    for version in range(1, VERSION + 1):
        kinds = {kind_of(path) for path in RECORDED if path.parent.name == f"v{version}"}
        assert kinds == {*DECODERS, "signature"}, f"version {version}: run python -m tests.messages.fixtures.record"


@pytest.mark.parametrize("path", MESSAGES, ids=name_of)
def test_recorded_bytes_mean_what_they_meant(path: Path) -> None:
    decoded = DECODERS[kind_of(path)](bytes_of(path))

    now, then = plain(decoded), meaning_of(path)

    assert _known(now, of=then) == then


def _known(now: Any, *, of: Any) -> Any:
    """Leave out the fields that a message, or a part of it, has got since; without a value they are their default."""
    if isinstance(now, dict) and isinstance(of, dict):
        return {key: _known(value, of=of[key]) for key, value in now.items() if key in of}
    if isinstance(now, list) and isinstance(of, list) and len(now) == len(of):
        return [_known(one, of=other) for one, other in zip(now, of, strict=True)]
    return now


@pytest.mark.parametrize("path", MESSAGES, ids=name_of)
def test_what_was_read_can_be_written_and_read_again(path: Path) -> None:
    decode = DECODERS[kind_of(path)]
    decoded = decode(bytes_of(path))

    assert decode(encode(decoded)) == decoded


@pytest.mark.parametrize("name", [name for name in CASES if name.partition("-")[0] in DECODERS])
def test_what_is_written_today_is_read_today(name: str) -> None:
    decoded = DECODERS[name.partition("-")[0]](encode(CASES[name]))

    assert decoded == CASES[name]


@pytest.mark.parametrize("path", MESSAGES, ids=name_of)
def test_a_field_that_a_later_version_adds_is_ignored(path: Path) -> None:
    fields = unpack(bytes_of(path)) | {"a field of tomorrow": {"deep": [1]}}
    decode = DECODERS[kind_of(path)]

    assert decode(pack(fields)) == decode(bytes_of(path))


@pytest.mark.parametrize("path", [path for path in MESSAGES if kind_of(path) != "error"], ids=name_of)
def test_a_newer_version_is_told_from_garbage(path: Path) -> None:
    fields = unpack(bytes_of(path)) | {"v": VERSION + 1}

    with pytest.raises(NewerVersionError, match="upgrade"):
        DECODERS[kind_of(path)](pack(fields))


@pytest.mark.parametrize("path", [path for path in RECORDED if kind_of(path) == "signature"], ids=name_of)
def test_a_recorded_signature_still_verifies_and_is_still_made_the_same(path: Path) -> None:
    """A signed task may wait for weeks; and programs of both versions sign and verify for each other meanwhile."""
    said = meaning_of(path)
    key, body = (_bytes(said[name]) for name in ("key", "body"))
    signer = PayloadSigner({said["key_id"]: key}, active=said["key_id"])

    signer.verify("task", said["namespace"], said["queue"], body, bytes_of(path))

    assert signer.sign("task", said["namespace"], said["queue"], body) == bytes_of(path)
    assert bytes_of(path) == _bytes(said["signature"])


def _bytes(value: Any) -> bytes:
    return base64.b64decode(value["$bytes"])


@pytest.mark.parametrize("kind", TYPES)
def test_every_field_has_a_recorded_value_that_is_not_its_default(kind: str) -> None:
    """A field that no fixture sets could change its name without a test that fails."""
    found: set[str] = set()
    fields = dataclasses.fields(TYPES[kind])
    for path in MESSAGES:
        if kind_of(path) == kind:
            said = meaning_of(path)
            for message in said if isinstance(said, list) else [said]:
                found |= {field.name for field in fields if message.get(field.name) != plain(_default(field))}

    assert {field.name for field in fields} == found


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return "no default" if field.default is dataclasses.MISSING else field.default


def test_recording_writes_what_is_missing_and_never_over_what_is_there(tmp_path: Path) -> None:
    first = {"error-a": ErrorInfo(type="A", message="1")}
    assert record(tmp_path, first, version=1) == ["error-a"]
    before = {path.name: path.read_bytes() for path in (tmp_path / "v1").iterdir()}

    changed = {"error-a": ErrorInfo(type="B", message="2"), "error-b": ErrorInfo(type="B", message="2")}
    assert record(tmp_path, changed, version=1) == ["error-b"]

    after = {path.name: path.read_bytes() for path in (tmp_path / "v1").iterdir()}
    assert before.items() <= after.items()
    assert len(after) == 4
