"""The filter language: one line that says which rows to show. Pure; never raises but `FilterError`.

word        any column has it            !word      none has it            /re/    any column matches
name:mail.* state:failed,retry q:default w:api-3 id:0193 name:=mail.send (all of it)  age>10s  took>1s  tries>=3
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any, Final

from stem_tui.patterns import PatternError, searcher

Field = Callable[[Any, int], "str | float | None"]
"""Return what a row has in this field: text to match, or a number (of times: seconds). The second is now, in ms."""
Fields = Mapping[str, Field]
Test = Callable[[Any, int], bool]

ALIASES: Final = {"q": "queue", "w": "worker", "task": "name", "n": "name", "s": "state", "e": "error"}
_COMPARE: Final = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt, "=": operator.eq}
_COMPARISON: Final = re.compile(r"([a-z]+)(>=|<=|>|<|=)(.+)")
_NUMBER: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|k)?")
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "k": 1000.0}
_TERM: Final = re.compile(r'!?(?:/(?:\\.|[^/\\])+/|[a-z]+:"[^"]*"|"[^"]*"|\S+)')


class FilterError(ValueError):
    """A filter that does not parse; says which part and why."""


def parse(text: str, fields: Fields) -> Test | None:
    """Return the test that `text` describes over rows with these fields; None for an empty filter.

    Raises:
        FilterError: it has a field this list lacks, or a pattern or number that does not parse.
    """
    tests = [_term(term, fields) for term in _TERM.findall(text)]
    if not tests:
        return None

    def passes(row: Any, now_ms: int) -> bool:
        return all(test(row, now_ms) for test in tests)

    return passes


def hints(fields: Fields) -> list[str]:
    """Return how terms of a filter begin here: what a person can go on from."""
    return [f"{name}:" for name in fields] + ["age>10s", "took>1s", "tries>=3"]


def _term(term: str, fields: Fields) -> Test:
    if term.startswith("!") and len(term) > 1:
        inner = _term(term[1:], fields)
        return lambda row, now_ms: not inner(row, now_ms)
    if len(term) > 2 and term.startswith("/") and term.endswith("/"):
        return _regex(term[1:-1], fields)
    if (comparison := _COMPARISON.fullmatch(term)) is not None:
        return _comparison(*comparison.groups(), term=term, fields=fields)
    name, colon, wanted = term.partition(":")
    if colon and name.isalpha() and name.islower():
        return _field(name, wanted.strip('"'), fields)
    return _word(term.strip('"'), fields)


def _word(word: str, fields: Fields) -> Test:
    wanted, readers = word.casefold(), list(fields.values())

    def test(row: Any, now_ms: int) -> bool:
        return any(isinstance(value := read(row, now_ms), str) and wanted in value.casefold() for read in readers)

    return test


def _regex(pattern: str, fields: Fields) -> Test:
    try:
        found = searcher(pattern)
    except PatternError as error:
        raise FilterError(str(error)) from error
    readers = list(fields.values())

    def test(row: Any, now_ms: int) -> bool:
        values = (read(row, now_ms) for read in readers)
        return any(isinstance(value, str) and found(value) for value in values)

    return test


def _field(name: str, wanted: str, fields: Fields) -> Test:
    read = _reader(name, fields)
    options = [option.casefold() for option in wanted.split(",") if option]
    if not options:
        raise FilterError(f"{name}: needs a value")
    field = ALIASES.get(name, name)

    def matches(value: str) -> bool:
        if field == "state" and value == "dead" and any(option and "failed".startswith(option) for option in options):
            return True  # a dead letter is a task that failed, kept for a replay
        for option in options:
            if option.startswith("="):
                if value == option[1:]:
                    return True
            elif any(each in option for each in "*?["):
                if fnmatchcase(value, option):
                    return True
            elif _is_meant(field, value, option):
                return True
        return False

    def test(row: Any, now_ms: int) -> bool:
        value = read(row, now_ms)
        return isinstance(value, str) and matches(value.casefold())

    return test


def _is_meant(field: str, value: str, option: str) -> bool:
    """Say whether a value is meant by a part of it: of an id also by its end, which is what lists show of it."""
    if field == "id":
        return value.startswith(option) or value.endswith(option)
    return value.startswith(option) if field == "state" else option in value


def _comparison(name: str, sign: str, number: str, *, term: str, fields: Fields) -> Test:
    read, compare = _reader(name, fields), _COMPARE[sign]
    parsed = _NUMBER.fullmatch(number)
    if parsed is None:
        raise FilterError(f"{term}: {number} is not a number; write 3, 1.5, 500ms, 10s, 5m, 2h or 1d")
    limit = float(parsed[1]) * _UNITS.get(parsed[2] or "", 1.0)

    def test(row: Any, now_ms: int) -> bool:
        value = read(row, now_ms)
        return not isinstance(value, str) and value is not None and bool(compare(value, limit))

    return test


def _reader(name: str, fields: Fields) -> Field:
    read = fields.get(ALIASES.get(name, name))
    if read is None:
        raise FilterError(f"no field '{name}' here: use {' '.join(sorted(fields))}")
    return read
