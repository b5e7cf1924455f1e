"""The rows of a list as a file: CSV for a spreadsheet, JSON lines for a program. Overwrites nothing."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from stem.observe.failures import KEPT_MS, FailureGroup
from stem.text import clean

FORMATS: Final = ("csv", "jsonl")
_INTERNAL: Final = frozenset({"owner", "from_event", "whole", "slots", "running", "superseded"})
_TEXT_CHARS: Final = 2_000
_PLAIN: Final = (str, int, float, bool, type(None))
# A spreadsheet runs what begins like this.
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9_.-]+")


class ExportError(ValueError):
    """The file could not be written; says which and why."""


def file_name(namespace: str, title: str, at_ms: int) -> str:
    """Return a name for a file that is safe in any shell and folder: `stem-prod-dead-20261128T120431Z.csv`."""
    stamp = datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y%m%dT%H%M%SZ")
    parts = ["stem", *(_UNSAFE.sub("-", part).strip("-.").lower()[:40] for part in (namespace, title))]
    return "-".join(part for part in (*parts, stamp) if part) + ".csv"


def record(row: Any, now_ms: int = 0) -> dict[str, Any]:
    """Return a row as plain values, all of them: a file has room for more than a screen. Times are Unix ms.

    Args:
        now_ms: the broker's time, up to which failures are counted.
    """
    if not is_dataclass(row):
        return {"value": clean(row)}
    found: dict[str, Any] = {}
    for each in fields(row):
        value = getattr(row, each.name)
        if each.name in _INTERNAL:
            continue
        if isinstance(value, _PLAIN):
            found[each.name] = _plain(value)
        elif isinstance(value, Mapping):
            found[each.name] = {clean(name): _plain(one) for name, one in value.items() if isinstance(one, _PLAIN)}
        elif isinstance(value, Sequence):
            found[each.name] = [_plain(one) for one in value if isinstance(one, _PLAIN)]
    if isinstance(row, FailureGroup):
        found |= {"count_5m": row.count(now_ms), "count_1h": row.count(now_ms, KEPT_MS)}
    if "key" in found and found.setdefault("id", found["key"]) == found["key"]:
        del found["key"]
    return found


def _plain(value: Any) -> Any:
    return clean(value, _TEXT_CHARS) if isinstance(value, str) else value


def text(rows: Iterable[Any], form: str, now_ms: int = 0) -> str:
    """Return the rows as CSV or JSON lines."""
    records = [record(row, now_ms) for row in rows]
    if form == "jsonl":
        return "".join(json.dumps(each, ensure_ascii=True, separators=(",", ":")) + "\n" for each in records)
    written = io.StringIO()
    columns = list(dict.fromkeys(name for each in records for name in each))
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(each.get(name)) for name in columns] for each in records)
    return written.getvalue()


def _cell(value: Any) -> str:
    if isinstance(value, dict | list):
        value = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    if value is None:
        return ""
    if not isinstance(value, str):
        return str(value)
    return f"'{value}" if value.startswith(_FORMULA) else value


def form_of(path: str) -> str:
    """Return the form that a file's name asks for.

    Raises:
        ExportError: none of `FORMATS`.
    """
    form = path.rpartition(".")[2].lower()
    if form not in FORMATS:
        raise ExportError(f"{clean(path, 80)}: a name that ends with .csv or .jsonl says the form")
    return form


def write(path: str, rows: Iterable[Any], now_ms: int = 0) -> Path:
    """Write the rows to a new file that only its owner can read, and return where it is.

    Raises:
        ExportError: there is such a file already, or it cannot be made.
    """
    words = text(rows, form_of(path), now_ms)  # whole before there is a file
    target = Path(path)
    try:
        target = target.expanduser()
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        raise ExportError(f"{clean(target, 120)} is there already: give another name") from None
    except (OSError, ValueError, RuntimeError) as error:  # the last: a home that nobody has
        raise _unwritten(target, error) from error
    try:
        with open(descriptor, "w", encoding="utf-8", newline="") as file:
            file.write(words)
    except (OSError, ValueError) as error:
        # A part of the rows looks like all of them.
        with suppress(OSError):
            target.unlink()
        raise _unwritten(target, error) from error
    return target.absolute()


def _unwritten(target: Path, error: Exception) -> ExportError:
    return ExportError(f"{clean(target, 120)} cannot be written: {clean(error, 120)}")
