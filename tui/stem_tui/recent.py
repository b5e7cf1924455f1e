"""All tasks by when they changed, newest first, kept in order from one look to the next. Pure, knows no widget.

Sorting a hundred thousand rows ten times a second takes all of a core, and only looking at each of them a fifth of it.
From one look to the next some hundreds change: those are found where they stood and put where they belong now, and what
lies between them is copied whole.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Sequence

from stem.observe.rows import TaskLine
from stem.observe.state import ClusterState

_Place = tuple[int, str]


def _place(row: TaskLine) -> _Place:
    return -row.when_ms, row.key


class Recent:
    """The list of one state. Whoever shows it keeps one of these."""

    def __init__(self, state: ClusterState) -> None:
        self._state = state
        self._turn = 0
        self._rows: list[TaskLine] = []
        self._listed: dict[str, int] = {}
        """When the row of this key had changed as it was put where it stands in the list."""

    def rows(self) -> list[TaskLine]:
        """Return all tasks, newest first; the list is a new one where anything changed."""
        tasks, fresh, last = self._state.tasks, list[TaskLine](), self._turn
        for row in reversed(tasks.values()):
            if row.turn <= last:
                break
            fresh.append(row)
        if not fresh and len(self._rows) == len(tasks):
            return self._rows
        self._turn = max(last, fresh[0].turn) if fresh else last
        if len(fresh) > len(self._rows) // 4:
            self._rows = sorted(tasks.values(), key=_place)
            self._listed = {row.key: row.when_ms for row in self._rows}
        else:
            self._rows = self._merged(sorted(fresh, key=_place), self._without(fresh))
        return self._rows

    def _without(self, fresh: Sequence[TaskLine]) -> list[TaskLine]:
        """Return the list without the rows that changed, and without those that are forgotten."""
        rows, listed, tasks = self._rows, self._listed, self._state.tasks
        stood = sorted((-listed[row.key], row.key) for row in fresh if row.key in listed)
        cuts, start = list[int](), 0
        for place in stood:
            start = _find(rows, place, start, self._stood)
            cuts.append(start)
        forgotten = len(rows) + len(fresh) - len(stood) - len(tasks)
        # What is forgotten ended long ago: it stands near the end.
        for index in range(len(rows) - 1, -1, -1):
            if not forgotten:
                break
            if rows[index].key not in tasks:
                forgotten -= 1
                del listed[rows[index].key]
                insort(cuts, index)
        kept, start = list[TaskLine](), 0
        for index in cuts:
            kept += rows[start:index]
            start = index + 1
        kept += rows[start:]
        return kept

    def _merged(self, fresh: Sequence[TaskLine], kept: list[TaskLine]) -> list[TaskLine]:
        merged, start = list[TaskLine](), 0
        for row in fresh:
            end = _find(kept, _place(row), start, self._stood)
            merged += kept[start:end]
            merged.append(row)
            start = end
        merged += kept[start:]
        self._listed.update((row.key, row.when_ms) for row in fresh)
        return merged

    def _stood(self, row: TaskLine) -> _Place:
        return -self._listed[row.key], row.key


def _find(rows: Sequence[TaskLine], place: _Place, start: int, key: Callable[[TaskLine], _Place]) -> int:
    """Return where `place` is or would be, from `start` on; it is looked for near `start` first."""
    step = 1
    while start + step < len(rows) and key(rows[start + step]) < place:
        start += step
        step *= 2
    return bisect_left(rows, place, start, min(len(rows), start + step + 1), key=key)
