"""Seeded mutators: from well-formed messages to all kinds of broken ones."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Any, Final

import msgpack

from tests.fuzz.corpus import nasty_bytes, nasty_strings

EDGES: Final = (
    *(0, 1, -1, 2, 31, 32, 33, 127, 128, -32, -33, -128, -129, 255, 256, 65_535, 65_536, 2**31 - 1, 2**31, 2**32),
    *(
        2**53,
        2**53 + 1,
        2**63 - 1,
        2**63,
        2**64 - 1,
        -(2**63),
        -(2**53) - 1,
        253_402_300_800_000,
        8_640_000_000_000_001,
    ),
)
FLOATS: Final = (0.0, -0.0, 0.1, 1e308, -1e308, 5e-324, float("nan"), float("inf"), float("-inf"), 2.0**63, 1e20)
SMALL: Final = tuple(sorted((data for data in nasty_bytes().values() if len(data) < 4_096), key=len))


class Mutator:
    """Breaks things by chance; the same seed breaks them the same way."""

    def __init__(self, random: Random) -> None:
        self.random = random

    def message(self, fields: Mapping[str, Any]) -> bytes:
        """Return a broken form of a message: its bytes, its structure, or both."""
        kind = self.random.randrange(10)
        if kind == 0:
            return self.binary()
        if kind < 4:
            return self.bytes_(pack(fields))
        data = pack(self.structure(dict(fields)))
        return self.bytes_(data) if kind == 9 else data

    def binary(self) -> bytes:
        """Return bytes that never were a message."""
        if self.random.random() < 0.3:
            return self.random.choice(SMALL)
        return self.random.randbytes(self.random.choice((0, 1, 2, 3, 5, 8, 40, 200, 1_000)))

    def bytes_(self, data: bytes) -> bytes:
        """Flip, cut, repeat, insert or overwrite some bytes."""
        random = self.random
        value = bytearray(data)
        for _ in range(random.choice((1, 1, 1, 2, 3, 8))):
            at = random.randrange(len(value) + 1)
            match random.randrange(7):
                case 0 if value:
                    value[at % len(value)] ^= 1 << random.randrange(8)
                case 1 if value:
                    value[at % len(value)] = random.choice((0x00, 0xFF, 0x80, 0x90, 0xC1, 0xD9, 0xDD, 0xDF, 0x7F))
                case 2:
                    del value[at:]
                case 3:
                    del value[at : at + random.randrange(1, 9)]
                case 4:
                    value[at:at] = value[at : at + random.randrange(1, 40)]
                case 5:
                    value[at:at] = random.randbytes(random.randrange(1, 9))
                case _:
                    value[at:at] = random.choice(SMALL)
        return bytes(value)

    def structure(self, value: Any, depth: int = 0) -> Any:
        """Change something somewhere in a value: another type, an edge, a key too many or too few."""
        random = self.random
        if depth > 5 or not value or not isinstance(value, dict | list) or random.random() < 0.15:
            return self.value()
        if isinstance(value, list):
            changed = list(value)
            at = random.randrange(len(changed))
            match random.randrange(5):
                case 0:
                    del changed[at]
                case 1:
                    changed.insert(at, self.value())
                case 2:
                    changed *= random.choice((2, 50))
                case _:
                    changed[at] = self.structure(changed[at], depth + 1)
            return changed
        copy = dict(value)
        key = random.choice(list(copy))
        match random.randrange(8):
            case 0:
                del copy[key]
            case 1:
                copy[self.text()] = self.value()
            case 2:
                copy[random.choice((1, None, b"v", 2.5))] = self.value()
            case 3:
                copy[random.choice(list(copy))], copy[key] = copy[key], copy[random.choice(list(copy))]
            case 4 | 5:
                copy[key] = self.value()
            case _:
                copy[key] = self.structure(copy[key], depth + 1)
        return copy

    def value(self) -> Any:
        """Return something that is likely of the wrong type or at an edge."""
        random = self.random
        match random.randrange(14):
            case 0:
                return None
            case 1:
                return random.random() < 0.5
            case 2 | 3:
                return random.choice(EDGES)
            case 4:
                return random.choice(FLOATS)
            case 5 | 6 | 7:
                return self.text()
            case 8:
                return random.choice(SMALL)[:300]
            case 9:
                return []
            case 10:
                return {}
            case 11:
                return self._nested(random.choice((1, 30, 31, 32, 33, 200)))
            case 12:
                if random.random() < 0.5:
                    return msgpack.Timestamp(random.choice((0, -1, 2**40)), random.randrange(10**9))
                return msgpack.ExtType(random.randrange(128), random.randbytes(random.choice((0, 1, 2, 4, 8, 12))))
            case _:
                return {self.text(): self.text() for _ in range(random.choice((1, 3, 300)))}

    def text(self) -> str:
        return self.random.choice(nasty_strings())

    def _nested(self, depth: int) -> Any:
        value: Any = self.text()
        for _ in range(depth):
            value = [value] if self.random.random() < 0.5 else {self.text(): value}
        return value


def pack(value: object) -> bytes:
    """Return MessagePack of a value, surrogates and all; what cannot be packed is packed as its repr."""
    try:
        data: bytes = msgpack.packb(value, unicode_errors="surrogatepass")
    except (TypeError, ValueError, OverflowError, RecursionError):
        data = msgpack.packb(ascii(value)[:1_000])
    return data
