"""Whatever bytes come, a decoder returns a value or raises `DecodeError`: soon, in bounds, and importing nothing."""

from __future__ import annotations

import builtins
import contextlib
import importlib
import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NoReturn

import pytest

from stem.errors import DecodeError, InvalidInputError
from stem.messages import codec
from stem.messages.codec import MAX_BODY, unpack
from stem.messages.event import Event
from stem.worker.host import rss_bytes
from tests.fuzz.corpus import nasty_bytes
from tests.fuzz.effort import check_effort, timed
from tests.fuzz.mutate import Mutator, pack
from tests.fuzz.sizes import TIMEOUT_S, random_for, reported, size
from tests.messages.fixtures.record import DECODERS, FOLDER, encode, plain

pytestmark = pytest.mark.timeout(TIMEOUT_S)

MB: Final = 1024 * 1024
SHARES: Final = {"envelope": size(10_000, 100_000)}
SHARE: Final = size(2_000)


def samples(kind: str) -> list[bytes]:
    """Return well-formed messages of a kind: the recorded ones."""
    return [bytes.fromhex(path.read_text("ascii")) for path in _recorded(kind)]


def _recorded(kind: str) -> list[Path]:
    return sorted(FOLDER.glob(f"v*/{kind}-*.hex"))


@contextmanager
def nothing_imported() -> Iterator[None]:
    """Fail when anything is imported meanwhile."""

    def refuse(name: str, *_: object, **__: object) -> NoReturn:
        raise AssertionError(f"decoding imports {name!r}")

    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importlib, "import_module", refuse)
        patch.setattr(builtins, "__import__", refuse)
        yield
    assert set(sys.modules) == before


def decode(kind: str, data: bytes) -> Any:
    """Return what a decoder makes of bytes, None where it refuses them as it should; anything else fails."""
    value = None

    def read() -> None:
        nonlocal value
        value = read_or_refuse(kind, data)

    check_effort(f"{kind} {data[:100].hex()}", read, len(data), timed(read))
    return value


def read_or_refuse(kind: str, data: bytes) -> Any:
    try:
        return DECODERS[kind](data)
    except DecodeError as error:
        said = str(error)
        assert said.isprintable(), "the error shows the bytes"
        assert len(said) < 300
        return None
    except Exception as error:
        raise AssertionError(f"{kind}: {type(error).__name__}: {error} from {data[:200].hex()}") from error


def look_at(value: Any) -> None:
    """Do with an accepted message what programs do: show it and write it on."""
    json.dumps(plain(value), allow_nan=True).encode()
    # A message that nests as deep as one may is one level too deep in the next; its text was cut where it is too long.
    with contextlib.suppress(InvalidInputError):
        encode(value)


@pytest.mark.parametrize("kind", DECODERS)
def test_the_corpus_is_refused_or_read(kind: str) -> None:
    with nothing_imported():
        for data in nasty_bytes().values():
            # The big ones never get past the reading that all decoders share; the bombs below try them as envelopes.
            if len(data) < 64 * 1024 or kind == "status":
                decode(kind, data)


@pytest.mark.parametrize("kind", DECODERS)
def test_a_message_cut_anywhere_is_refused(kind: str) -> None:
    for sample in samples(kind):
        for end in range(len(sample)):
            assert decode(kind, sample[:end]) is None, f"cut at {end}"


@pytest.mark.parametrize("kind", DECODERS)
def test_a_message_with_any_bit_flipped_is_refused_or_read(kind: str) -> None:
    with nothing_imported(), reported(f"{kind}, each bit flipped") as counted:
        for sample in samples(kind):
            for bit in range(len(sample) * 8):
                flipped = bytearray(sample)
                flipped[bit // 8] ^= 1 << bit % 8
                value = decode(kind, bytes(flipped))
                counted.add(value is not None)
                if value is not None:
                    look_at(value)


@pytest.mark.parametrize("kind", DECODERS)
def test_mutated_messages_are_refused_or_read(kind: str) -> None:
    mutator = Mutator(random_for(kind))
    fields = [unpack(sample) for sample in samples(kind)]
    before = rss_bytes()

    with nothing_imported(), reported(f"{kind}, mutated") as counted:
        for _ in range(SHARES.get(kind, SHARE)):
            value = decode(kind, mutator.message(mutator.random.choice(fields)))
            counted.add(value is not None)
            if value is not None:
                look_at(value)

    assert counted.accepted > counted.tried / 100, "the mutations are all too coarse: nothing gets through"
    assert rss_bytes() - before < 50 * MB


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs the peak of memory that Linux keeps")
def test_a_bomb_takes_a_bounded_multiple_of_its_size() -> None:
    """Not more than 150 bytes of memory for each of its bytes, and of those never more than a body may have."""
    for name, data in nasty_bytes().items():
        if len(data) < 64 * 1024:
            continue
        before = rss_bytes()
        Path("/proc/self/clear_refs").write_text("5")
        read_or_refuse("envelope", data)
        peak = int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024  # type: ignore[index]
        assert peak - before < 150 * MAX_BODY, f"{name}: {(peak - before) / MB:.0f} MB"
        decode("envelope", data)


def test_a_decoder_that_looks_at_each_value_for_each_value_is_found_too_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is a multiple of a yardstick: it must tell a quadratic decoder on any machine."""
    right = codec.flaw_in

    def quadratic(value: object, depth: int = codec.MAX_DEPTH) -> str | None:
        if isinstance(value, list):
            for child in value:
                value.count(child)
        return right(value, depth)

    data = b"\xdd" + (8_192).to_bytes(4, "big") + b"\x90" * 8_192
    decode("envelope", data)
    monkeypatch.setattr(codec, "flaw_in", quadratic)

    with pytest.raises(AssertionError, match="are allowed"):
        decode("envelope", data)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("field", ["cpu_percent", "rtt_ms"])
def test_a_heartbeat_says_finite_numbers(field: str, value: float) -> None:
    """The dashboard rounds them, and `round(nan)` raises: one worker's beat would end the picture of all."""
    fields = unpack(samples("heartbeat")[0])

    assert decode("heartbeat", pack(fields | {field: value})) is None


@pytest.mark.parametrize("command_id", ["", "a b", "x}:q:y", "a\n", "\x1b[2J", "ä", "x" * 65, "*"])
def test_a_command_has_an_id_that_may_be_part_of_a_key(command_id: str) -> None:
    fields = unpack(samples("command")[0])

    assert decode("command", pack(fields | {"id": command_id})) is None


def test_an_event_batch_of_the_largest_size_is_read_in_time() -> None:
    event = Event(kind="task.started", at_ms=1, worker="w", seq=1)
    batch = encode([event] * 9_000)

    assert len(batch) < MAX_BODY
    assert len(decode("events", batch)) == 9_000


def test_every_decoder_is_fuzzed() -> None:
    """A new kind of message that nobody adds to the recorded ones would never be tried."""
    checked: dict[str, Callable[[bytes], Any]] = dict(DECODERS)

    assert all(samples(kind) for kind in checked)
