"""What a frozen picture was made of: what was had once is had again, however the state goes on. Knows no widget."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from copy import copy
from typing import Any, Final, TypeVar

from stem.observe.failures import FailureGroup
from stem.observe.rows import QueueLine, TaskLine, WorkerLine

T = TypeVar("T")
COPIED: Final = 10_000
"""So many rows of a list are copied; a copy of a hundred thousand would stop the dashboard for a second."""
_PARTS: Final[dict[type, tuple[str, ...]]] = {
    TaskLine: (),
    QueueLine: ("came", "went"),
    WorkerLine: ("succeeded", "failed"),
    FailureGroup: ("slots",),
}
"""Rows that the state changes in place, and what of them is changed in place too."""


class Frozen:
    """What one screen has shown since the picture was frozen."""

    def __init__(self) -> None:
        self._at_ms: int | None = None
        self._had: dict[Hashable, Any] = {}

    def at(self, frozen_ms: int | None) -> None:
        """Say when the picture was frozen, or that it is live; what was had of another one is forgotten."""
        if frozen_ms != self._at_ms:
            self._at_ms = frozen_ms
            self._had.clear()

    def once(self, name: Hashable, make: Callable[[], T]) -> T:
        """Return what there is, in a frozen picture what there was when this was asked first; None is asked again."""
        if self._at_ms is None:
            return make()
        if self._had.get(name) is None:
            self._had[name] = make()
        found: T = self._had[name]
        return found

    def rows(self, name: Hashable, make: Callable[[], Sequence[Any] | None]) -> Sequence[Any]:
        """Return rows in the same way, and such as stay as they are; none where they are not known yet."""
        return self.once(name, make if self._at_ms is None else lambda: _copied(make())) or ()

    def forget(self, name: Hashable) -> None:
        self._had.pop(name, None)


def _copied(rows: Sequence[Any] | None) -> Sequence[Any] | None:
    if rows is None:
        return None
    whole = list(rows)
    return [_still(row) for row in whole[:COPIED]] + whole[COPIED:]


def _still(row: Any) -> Any:
    parts = _PARTS.get(type(row))
    if parts is None:
        return row
    twin = copy(row)
    for name in parts:
        setattr(twin, name, copy(getattr(row, name)))
    return twin
