"""MessagePack with bounds: what may be packed, and how untrusted bytes become plain values.

Every decoder of a message reads its fields through `Fields`, so that a wrong type, a missing key, too deep a nesting
or too many bytes is one `DecodeError` with a name in it, never a crash further on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Any, Final, NoReturn

import msgpack

from stem.errors import BodyTooLargeError, DecodeError, InvalidArgumentsError, NewerVersionError

VERSION: Final = 1
MAX_DEPTH: Final = 32
MAX_BODY: Final = 1024 * 1024

_PACKER_BYTES: Final = 64 * 1024
_PACKERS: Final[list[Any]] = []
"""Packers that nobody uses now. A call takes one out, so that other threads get another, and so does a value whose own
code packs something."""
_NESTS: Final = (dict, list, tuple)
_FLAT: Final = frozenset({str, int, float, bool, bytes, type(None)})


def pack(value: object, *, what: str = "value", limit: int = MAX_BODY) -> bytes:
    """Return `value` as MessagePack.

    Raises:
        InvalidArgumentsError: it holds something that cannot travel (an object, a map key that is not text), nests
            deeper than 32, or is changed by another thread meanwhile.
        BodyTooLargeError: the bytes are more than `limit`.
    """
    try:
        data = _packed(value)
        flaw = flaw_in(value)
        stamped = _may_hold_timestamp(data) and _holds_timestamp(value)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:  # the last also of a dict that is changed now
        raise InvalidArgumentsError(
            f"{what} cannot be encoded: {error}; use None, bool, int (64 bit), float, str, bytes, list and dict"
        ) from error
    if len(data) > limit:
        raise BodyTooLargeError(f"{what} is {len(data)} bytes, the limit is {limit}: store the data, send its address")
    if flaw:
        raise InvalidArgumentsError(f"{what} {flaw}")
    if stamped:
        raise InvalidArgumentsError(f"{what} cannot be encoded: a MessagePack timestamp; use an int or a str")
    return data


def unpack(data: bytes, *, what: str = "message", limit: int = MAX_BODY) -> Any:
    """Return the value in `data`.

    Raises:
        DecodeError: too long, not MessagePack, trailing bytes, an extension type, a map key that is not text, or
            nesting deeper than 32.
    """
    if len(data) > limit:
        raise DecodeError(f"{what} is {len(data)} bytes, the limit is {limit}")
    try:
        value = msgpack.unpackb(data, raw=False, strict_map_key=True, ext_hook=_refuse_extension, timestamp=0)
    except DecodeError as error:
        raise DecodeError(f"{what}: {error}") from error
    except Exception as error:
        # msgpack documents UnpackException and ValueError, but malformed input also surfaces as TypeError (an
        # unhashable key), UnicodeDecodeError, StackError or OverflowError. Whatever it is, it is about these bytes.
        raise DecodeError(f"{what} is not readable MessagePack: {type(error).__name__}") from error
    if flaw := flaw_in(value):
        raise DecodeError(f"{what} {flaw}")
    if _may_hold_timestamp(data) and _holds_timestamp(value):
        raise DecodeError(f"{what}: extension type -1 (a timestamp) is not allowed")
    return value


def flaw_in(value: object, depth: int = MAX_DEPTH) -> str | None:
    """Say what is wrong with the shape of a value: nesting deeper than `depth`, or a map key that is not text."""
    if isinstance(value, dict):
        for key in value:
            if key.__class__ is not str and not isinstance(key, str):
                return "has a map key that is not text"
        children: Any = value.values()
    elif isinstance(value, list | tuple):
        children = value
    else:
        return None
    if depth == 0:
        return f"nests deeper than {MAX_DEPTH} levels"
    # A dashboard reads tens of thousands of values a second: most are told by their class alone.
    for child in children:
        if child.__class__ not in _FLAT and isinstance(child, _NESTS) and (flaw := flaw_in(child, depth - 1)):
            return flaw
    return None


def in_order(value: Any) -> Any:
    """Return the value with the keys of its maps sorted, nested ones too: equal values are then packed alike.

    One whose shape `pack` refuses is returned as it is.
    """
    return value if flaw_in(value) else _in_order(value)


def _in_order(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _in_order(value[key]) for key in sorted(value)}
    if isinstance(value, list | tuple):
        return [_in_order(child) for child in value]
    return value


def _packed(value: object) -> bytes:
    """Return `value` as MessagePack, by a packer that was used before: making one takes longer than most values."""
    try:
        packer = _PACKERS.pop()
    except IndexError:
        packer = msgpack.Packer(buf_size=_PACKER_BYTES)
    data: bytes = packer.pack(value)
    # Not after an error, nor after much: a packer keeps what memory it has.
    if len(data) <= _PACKER_BYTES:
        _PACKERS.append(packer)
    return data


def _may_hold_timestamp(data: bytes) -> bool:
    # msgpack hands timestamps to no hook; looking for their three headers is far cheaper than walking every value.
    return b"\xff" in data and (b"\xd6\xff" in data or b"\xd7\xff" in data or b"\xc7\x0c\xff" in data)


def _holds_timestamp(value: object) -> bool:
    if isinstance(value, dict):
        return any(_holds_timestamp(child) for child in value.values())
    if isinstance(value, list | tuple):
        return any(_holds_timestamp(child) for child in value)
    return isinstance(value, msgpack.Timestamp)


def _refuse_extension(code: int, data: bytes) -> NoReturn:
    raise DecodeError(f"extension type {code} is not allowed")


class Fields:
    """Typed access to one decoded map; each getter raises `DecodeError` that names the message and the field."""

    __slots__ = ("_map", "_what")

    def __init__(self, value: object, what: str) -> None:
        if not isinstance(value, dict):
            raise DecodeError(f"{what} is not a map")
        self._map: dict[str, Any] = value
        self._what = what

    @classmethod
    def of(cls, data: bytes, what: str, *, limit: int = MAX_BODY) -> Fields:
        """Decode `data` and check its version."""
        fields = cls(unpack(data, what=what, limit=limit), what)
        version = fields.integer("v")
        if version > VERSION:
            raise NewerVersionError(f"{what} has version {version}, this Stem reads up to {VERSION}: upgrade it")
        return fields

    @property
    def plain(self) -> Mapping[str, Any]:
        """The map itself, unchecked but for its keys."""
        return self._map

    def hold_only(self, keys: AbstractSet[str]) -> bool:
        """Say whether there are no others than these, so that those need not be asked for one by one."""
        return self._map.keys() <= keys

    def _wrong(self, key: str, expected: str) -> NoReturn:
        state = f"is not {expected}" if key in self._map else "is missing"
        raise DecodeError(f"{self._what}: {key!r} {state}")

    def text(self, key: str, default: str | None = None) -> str:
        value = self._map.get(key, default)
        if not isinstance(value, str):
            self._wrong(key, "text")
        return value

    def optional_text(self, key: str) -> str | None:
        value = self._map.get(key)
        if value is not None and not isinstance(value, str):
            self._wrong(key, "text")
        return value

    def integer(self, key: str, default: int | None = None) -> int:
        value = self._map.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool):
            self._wrong(key, "an integer")
        return value

    def optional_integer(self, key: str) -> int | None:
        value = self._map.get(key)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
            self._wrong(key, "an integer")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """Return a finite number: what is NaN or infinite can be neither rounded nor compared."""
        value = self._map.get(key, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            self._wrong(key, "a number")
        return value

    def optional_number(self, key: str) -> float | None:
        return None if self._map.get(key) is None else self.number(key)

    def boolean(self, key: str, default: bool | None = None) -> bool:
        value = self._map.get(key, default)
        if not isinstance(value, bool):
            self._wrong(key, "true or false")
        return value

    def bytes_(self, key: str) -> bytes:
        value = self._map.get(key)
        if not isinstance(value, bytes):
            self._wrong(key, "bytes")
        return value

    def mapping(self, key: str) -> Mapping[str, Any]:
        """Return the map under `key`; a missing one is empty. Its keys are text."""
        value = self._map.get(key)
        if value is None:
            return {}
        if not isinstance(value, dict):
            self._wrong(key, "a map")
        for name in value:
            if type(name) is not str:
                self._wrong(key, "a map with text keys")
        return value

    def texts(self, key: str) -> list[str]:
        value = self._map.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            self._wrong(key, "a list of texts")
        return value

    def maps(self, key: str) -> list[Fields]:
        """Return the list of maps under `key`, each as `Fields`; a missing one is empty."""
        value = self._map.get(key, [])
        if not isinstance(value, list):
            self._wrong(key, "a list")
        return [Fields(item, f"{self._what}: {key}") for item in value]

    def any(self, key: str) -> Any:
        return self._map.get(key)
