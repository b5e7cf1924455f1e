"""Nasty bytes and strings, kept as text.

`bytes.json`: name -> parts, each a piece of hex and how often it is repeated. `strings.json`: strings as they are, and
pairs of a string and how often it is repeated.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any, Final

FOLDER: Final = Path(__file__).parent


@cache
def nasty_bytes() -> dict[str, bytes]:
    return {
        name: b"".join(bytes.fromhex(piece) * times for piece, times in parts)
        for name, parts in _read("bytes.json").items()
    }


@cache
def nasty_strings() -> list[str]:
    said = _read("strings.json")
    return [*said["as they are"], *(piece * times for piece, times in said["repeated"])]


def _read(name: str) -> Any:
    return json.loads((FOLDER / name).read_text(encoding="ascii"))
