"""Patterns that somebody types to search with, and how long they may take. Pure.

A search keeps the whole program waiting, and one like `(\\w+\\s?)+!` takes longer than anybody lives. So a pattern is
read before it runs: where what it repeats can match the same text in several ways it is refused; else the text is cut
to what it can search in some milliseconds, whatever the text is.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import factorial
from typing import Any, Final

CHARS: Final = 300
"""Of a text, so many are searched by a pattern that goes over them once or twice."""
LEAST_CHARS: Final = 50
"""A pattern that has no time for as many is refused."""
_STEPS: Final = 2e6
_FEW: Final = 16
_MUCH: Final = 1e9
_ENDLESS: Final = "a repeat within a repeat may take for ever: write it without"
_TOO_MANY: Final = "so many repeats may take for ever: write several patterns, /a/ /b/"
_ASCII: Final = frozenset(chr(code) for code in range(0x180))
_WORD, _DIGIT, _SPACE, _REST = "a word's", "a digit", "a space", "another"
_BEYOND: Final = frozenset({_WORD, _DIGIT, _SPACE, _REST})
"""What stands for all characters after the first few hundred."""
_ALL: Final = frozenset(char.lower() for char in _ASCII) | _BEYOND

Starts = frozenset[str]
"""What something can begin with; nothing, where the whole pattern has matched."""


class PatternError(ValueError):
    """A pattern that cannot be searched with; says why."""


@dataclass(frozen=True, slots=True)
class _Cost:
    """In how many ways something can match one text: `factor`, times its length to the power of `degree`."""

    degree: int = 0
    factor: float = 1.0
    scans: bool = False

    @property
    def one_way(self) -> bool:
        return self.degree == 0 and self.factor <= 1

    def then(self, other: _Cost) -> _Cost:
        factor = min(self.factor * other.factor, _MUCH)
        return _Cost(self.degree + other.degree, factor, self.scans or other.scans)


def searcher(pattern: str) -> Callable[[str], bool]:
    """Return what says whether a text has the pattern, in upper or lower case.

    Raises:
        PatternError: it is no pattern, or one that may take too long.
    """
    try:
        compiled = re.compile(pattern, re.IGNORECASE)
        chars = _room(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise PatternError(f"/{pattern}/ is not a pattern: {error}") from error
    if chars < LEAST_CHARS:
        raise PatternError(f"/{pattern}/: {_TOO_MANY}")
    return lambda text: compiled.search(text[:chars]) is not None


def _room(pattern: str) -> int:
    """Return how many characters it can search in time."""
    try:
        parser: Any = importlib.import_module("re._parser")
        cost = _sequence(list(parser.parse(pattern, re.IGNORECASE)), frozenset(), pattern)
    except (ImportError, AttributeError, TypeError):
        # A Python that reads patterns otherwise: what has no repeats is safe whatever it is.
        return CHARS if re.search(r"[*+?{]", pattern) is None else 0
    power = min(1 + cost.degree + cost.scans, _FEW)
    return next((chars for chars in range(CHARS, 0, -1) if chars**power / factorial(power) * cost.factor <= _STEPS), 0)


# ------------------------------------------------------------------------------------------------------- ways to match


def _sequence(items: Sequence[Any], after: Starts, pattern: str) -> _Cost:
    cost = _Cost()
    for at, item in enumerate(items):
        cost = cost.then(_item(item, _starts(items[at + 1 :], after), pattern))
    return cost


def _item(item: Any, after: Starts, pattern: str) -> _Cost:
    """Return the cost of one part, where what comes after it can begin like this."""
    code, detail = str(item[0]), item[1]
    match code:
        case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT":
            return _repeat(detail, after, pattern)
        case "SUBPATTERN":
            return _sequence(list(detail[3]), after, pattern)
        case "ATOMIC_GROUP":
            return _sequence(list(detail), frozenset(), pattern)
        case "BRANCH":
            return _branch([list(each) for each in detail[1]], after, pattern)
        case "GROUPREF_EXISTS":
            return _branch([list(each or ()) for each in detail[1:]], after, pattern)
        case "ASSERT" | "ASSERT_NOT":
            cost = _sequence(list(detail[1]), frozenset(), pattern)
            # It is looked at from every place that what is before it gives back.
            return _Cost(cost.degree + cost.scans, cost.factor)
        case "GROUPREF" | "GROUPREF_IGNORE":
            return _Cost(scans=True)
    return _Cost()


def _branch(ways: Sequence[Sequence[Any]], after: Starts, pattern: str) -> _Cost:
    costs = [_sequence(way, after, pattern) for way in ways]
    firsts = [_starts(way, after) for way in ways]
    apart = all(not one & other for one, other in combinations(firsts, 2))
    factors = [cost.factor for cost in costs]
    return _Cost(
        max(cost.degree for cost in costs), max(factors) if apart else sum(factors), any(cost.scans for cost in costs)
    )


def _repeat(detail: Any, after: Starts, pattern: str) -> _Cost:
    least, most, body = int(detail[0]), int(detail[1]), list(detail[2])
    first = _starts(body, after)
    inner = _sequence(body, first | after if most > 1 else after, pattern)
    if most <= 1:
        return inner.then(_Cost(factor=1 if most == least or not first & after else 2))
    if not inner.one_way and most > _FEW:
        raise PatternError(f"/{pattern}/: {_ENDLESS}")
    if _empty(body) and least > CHARS:
        raise PatternError(f"/{pattern}/: {_TOO_MANY}")  # a text's end would not end it
    cost = _Cost(inner.degree * min(most, _FEW), min(inner.factor ** min(most, _FEW), _MUCH), inner.scans)
    if least == most or not (first & after or _empty(body)):
        # Where it ends is plain: what it gave back would begin nothing.
        return cost.then(_Cost(scans=True))
    return cost.then(_Cost(factor=most - least + 1) if most - least < _FEW else _Cost(degree=1))


# --------------------------------------------------------------------------------------------------------- beginnings


def _starts(items: Sequence[Any], after: Starts) -> Starts:
    """Return what these parts, and then what comes after them, can begin with."""
    found: Starts = frozenset()
    for item in items:
        found |= _first(item)
        if not _can_be_empty(item):
            return found
    return found | after


def _first(item: Any) -> Starts:
    code, detail = str(item[0]), item[1]
    nothing: Starts = frozenset()
    match code:
        case "AT" | "ASSERT" | "ASSERT_NOT":
            return nothing
        case "LITERAL" | "NOT_LITERAL" | "IN":
            return _chars([item] if code != "IN" else detail)
        case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT":
            return _starts(list(detail[2]), nothing)
        case "SUBPATTERN":
            return _starts(list(detail[3]), nothing)
        case "ATOMIC_GROUP":
            return _starts(list(detail), nothing)
        case "BRANCH":
            return nothing.union(*(_starts(list(each), nothing) for each in detail[1]))
        case "GROUPREF_EXISTS":
            return nothing.union(*(_starts(list(each or ()), nothing) for each in detail[1:]))
    return _ALL


def _empty(items: Sequence[Any]) -> bool:
    return all(_can_be_empty(item) for item in items)


def _can_be_empty(item: Any) -> bool:
    code, detail = str(item[0]), item[1]
    match code:
        case "AT" | "ASSERT" | "ASSERT_NOT" | "GROUPREF" | "GROUPREF_IGNORE":
            return True
        case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT":
            return int(detail[0]) == 0 or _empty(list(detail[2]))
        case "SUBPATTERN":
            return _empty(list(detail[3]))
        case "ATOMIC_GROUP":
            return _empty(list(detail))
        case "BRANCH":
            return any(_empty(list(each)) for each in detail[1])
        case "GROUPREF_EXISTS":
            return any(_empty(list(each or ())) for each in detail[1:])
    return False


def _chars(parts: Sequence[Any]) -> Starts:
    """Return the characters of a class, in lower case."""
    found: set[str] = set()
    sure: set[str] = set()  # all of these, so that they are none of what a negated class has
    negated = False
    for code, detail in parts:
        match str(code):
            case "NEGATE":
                negated = True
            case "NOT_LITERAL":
                negated = True
                sure |= _literal(detail) & _ASCII
            case "LITERAL":
                found |= _literal(detail)
            case "RANGE":
                low, high = int(detail[0]), int(detail[1])
                found |= {char for code in range(low, min(high + 1, 0x180)) for char in _literal(code)}
                found |= _BEYOND if high >= 0x180 else frozenset()
            case "CATEGORY":
                category = _category(str(detail))
                found |= category
                sure |= category & _BEYOND
    return _ALL - (found & _ASCII) - sure if negated else frozenset(found)


def _literal(code: int) -> Starts:
    char = chr(code)
    lower = char.lower()
    plain = frozenset({lower}) & _ALL
    if char in _ASCII and plain:
        return plain
    kind = _DIGIT if char.isdecimal() else _WORD if char.isalnum() else _SPACE if char.isspace() else _REST
    return plain | {kind}


def _category(name: str) -> Starts:
    kind = name.removeprefix("CATEGORY_").removeprefix("NOT_")
    if kind == "DIGIT":
        found = {char for char in _ASCII if char.isdecimal()} | {_DIGIT}
    elif kind == "SPACE":
        found = {char for char in _ASCII if char.isspace()} | {_SPACE}
    elif kind == "WORD":
        found = {char.lower() for char in _ASCII if char.isalnum() or char == "_"} | {_WORD, _DIGIT}
    else:
        return _ALL
    return _ALL - found if "NOT_" in name else frozenset(found) & _ALL
