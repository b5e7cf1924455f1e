"""Arguments that people are not to see: which they are, what is shown in their place, and their values in other text.

A *path* names one argument, or a part of one: `password`, `card.number`. It leads through maps by key and through lists
to each of their elements. Knows nothing of tasks, workers or screens.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, AnyStr, Final
from urllib.parse import quote, quote_plus

from stem.errors import InvalidInputError
from stem.text import as_text

HIDDEN: Final = "***"
MAX_PATHS: Final = 100
MAX_PATH: Final = 200
LEAST: Final = 4
"""Characters of a text whose value is hidden wherever it stands: shorter ones are part of every other word."""
LEAST_DIGITS: Final = 6
MOST_VALUES: Final = 1_000
"""With more of them than this a text is hidden as a whole rather than searched for each."""


def check_paths(paths: object) -> tuple[str, ...]:
    """Return paths in order, each once.

    Raises:
        InvalidInputError: not a list of printable names, or too many of them.
    """
    listed = tuple(paths) if isinstance(paths, list | tuple | set | frozenset) else (paths,)
    if isinstance(paths, str) or not all(is_path(path) for path in listed):
        raise InvalidInputError(
            f'redact={ascii(paths)[:80]}: give a list of argument names, such as ["password", "card.number"]'
        )
    if len(listed) > MAX_PATHS:
        raise InvalidInputError(f"redact has {len(listed)} names, at most {MAX_PATHS} are possible")
    return tuple(sorted(set(listed)))


def is_path(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_PATH and value.isprintable()


def travelled_paths(options: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the paths in an envelope's options; what is none is left out."""
    listed = options.get("redact")
    return tuple(path for path in listed[:MAX_PATHS] if is_path(path)) if isinstance(listed, list) else ()


def masked(args: Mapping[str, Any], paths: Iterable[str]) -> dict[str, Any]:
    """Return a copy of `args` in which `***` stands at each of the paths."""
    copy: dict[str, Any] = {key: _copied(value) for key, value in args.items()}
    for path in paths:
        for place, key in list(_places(copy, path)):
            place[key] = HIDDEN
    return copy


class Veil:
    """Hides the values of some arguments wherever they stand literally in other text or data.

    Looked for are texts and bytes of 4 or more characters and whole numbers of 6 or more digits, as they are and as
    Python, JSON and URLs write them; of a text of several lines each line.
    """

    __slots__ = ("_all", "_forms")

    def __init__(self, args: Mapping[str, Any], paths: Iterable[str]) -> None:
        values: set[str | bytes] = set()
        self._all = False
        for path in paths:
            for place, key in _places(args, path):
                for value in _values(place[key]):
                    values.add(value)
                    if len(values) > MOST_VALUES:
                        self._all = True
                        self._forms: tuple[str, ...] = ()
                        return
        forms = {form for value in values for form in _forms(value)}
        # The longest first: one may be part of another.
        self._forms = tuple(sorted(forms, key=lambda form: (-len(form), form)))

    def __bool__(self) -> bool:
        return self._all or bool(self._forms)

    def __repr__(self) -> str:
        return f"<Veil over {len(self._forms)} values>"

    def text(self, value: object) -> str:
        """Return `value` as text with `***` in the place of each hidden value."""
        text = as_text(value)
        if self._all:
            return HIDDEN
        for form in self._forms:
            if form in text:
                text = text.replace(form, HIDDEN)
        return text

    def data(self, value: Any) -> Any:
        """Return plain data (as decoded) with the hidden values taken out of all its texts, keys and whole numbers."""
        if not self:
            return value
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, bytes):
            return value if (shown := self.text(value)) == as_text(value) else shown.encode()
        if isinstance(value, int) and not isinstance(value, bool):
            return HIDDEN if self._all or str(value) in self._forms else value
        if isinstance(value, dict):
            return {self.text(key): self.data(child) for key, child in value.items()}
        if isinstance(value, list | tuple):
            return [self.data(child) for child in value]
        return value


NO_VEIL: Final = Veil({}, ())


def _copied(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copied(child) for key, child in value.items()}
    return [_copied(child) for child in value] if isinstance(value, list | tuple) else value


def _places(value: Any, path: str) -> Iterator[tuple[Any, Any]]:
    """Yield each map that the path leads to, and the key in it. A key may have dots of its own."""
    if isinstance(value, list | tuple):
        for child in value:
            yield from _places(child, path)
    elif isinstance(value, Mapping):
        if path in value:
            yield value, path
        dot = path.find(".")
        while dot >= 0:
            if (key := path[:dot]) in value:
                yield from _places(value[key], path[dot + 1 :])
            dot = path.find(".", dot + 1)


def _values(value: Any) -> Iterator[str | bytes]:
    """Yield the texts in a value that are long enough to be looked for; as bytes what no text stands for."""
    if isinstance(value, str | bytes):
        yield from _parts(text := as_text(value))
        if isinstance(value, bytes) and not value.isascii() and text.encode() != value:
            yield from _parts(value)
    elif isinstance(value, int) and not isinstance(value, bool):
        if len(str(abs(value))) >= LEAST_DIGITS:
            yield str(value)
    elif isinstance(value, Mapping):
        for child in value.values():
            yield from _values(child)
    elif isinstance(value, list | tuple):
        for child in value:
            yield from _values(child)


def _parts(value: AnyStr) -> Iterator[AnyStr]:
    for part in (value, *value.splitlines()):
        if len(part) >= LEAST and not part.isspace():
            yield part


def _forms(value: str | bytes) -> Iterator[str]:
    """Yield what is looked for; of ASCII, Python writes text and bytes alike."""
    if isinstance(value, bytes):
        yield repr(value)[2:-1]
        yield from _quoted(value)
        return
    yield value
    yield repr(value)[1:-1]
    yield ascii(value)[1:-1]
    yield json.dumps(value)[1:-1]
    yield json.dumps(value, ensure_ascii=False)[1:-1]
    if value.isascii():
        yield from _quoted(value)
    elif not any("\ud800" <= character <= "\udfff" for character in value):
        yield repr(value.encode())[2:-1]
        yield from _quoted(value)


def _quoted(value: str | bytes) -> Iterator[str]:
    yield quote(value)
    yield quote(value, safe="")
    yield quote_plus(value)
