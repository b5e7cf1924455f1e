"""All tasks by when they changed, newest first, kept in order from one look to the next. Pure, knows no widget.

Sorting a hundred thousand rows ten times a second takes all of a core. From one look to the next some hundreds change:
those are taken out and put where they belong now, and the rest stays as it was.
"""

from __future__ import annotations

from bisect import bisect_left

from stem.observe.rows import TaskLine
from stem.observe.state import ClusterState


def _place(row: TaskLine) -> tuple[int, str]:
    return -row.when_ms, row.key


class Recent:
    """The list of one state. Whoever shows it keeps one of these."""

    def __init__(self, state: ClusterState) -> None:
        self._state = state
        self._turn = 0
        self._rows: list[TaskLine] = []

    def rows(self) -> list[TaskLine]:
        """Return all tasks, newest first; the list is a new one where anything changed."""
        fresh, last = list[TaskLine](), self._turn
        for row in reversed(self._state.tasks.values()):
            if row.turn <= last:
                break
            fresh.append(row)
        if not fresh and len(self._rows) == len(self._state.tasks):
            return self._rows
        kept = [row for row in self._rows if row.turn <= last]
        self._turn = max(last, fresh[0].turn) if fresh else last
        if len(fresh) > len(kept) // 4:
            self._rows = sorted([*fresh, *kept], key=_place)
            return self._rows
        merged, start = list[TaskLine](), 0
        for row in sorted(fresh, key=_place):
            end = bisect_left(kept, _place(row), start, key=_place)
            merged += kept[start:end]
            merged.append(row)
            start = end
        merged += kept[start:]
        self._rows = merged
        return merged
