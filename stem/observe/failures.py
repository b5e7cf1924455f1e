"""What fails, grouped by task and exception type: at thousands a second single failures mean nothing. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

WINDOW_MS: Final = 5 * 60_000
KEPT_MS: Final = 60 * 60_000
_SLOT_MS: Final = 15_000
_GROUPS: Final = 500
_SEEN: Final = 20_000
_SAME_MS: Final = 60_000
_TIMES: Final = 20
"""Times kept of one attempt of one task: a replay begins at the first one again."""


@dataclass(slots=True)
class FailureGroup:
    """One kind of failure. All text in it is clean.

    Attributes:
        last_ms: of the newest one, by the broker's clock; `task_id` and `message` are of that one.
        slots: counts per fifteen seconds, so that the window can slide without keeping each failure.
    """

    task: str
    error: str
    message: str = ""
    queue: str = ""
    task_id: str = ""
    worker: str = ""
    last_ms: int = 0
    slots: dict[int, int] = field(default_factory=dict)

    @property
    def key(self) -> str:
        return f"{self.task}\t{self.error}"

    def count(self, now_ms: int, window_ms: int = WINDOW_MS) -> int:
        """Return how many there were in the last `window_ms`."""
        # One slot more, for what was told by a clock a little ahead; all after it is of before the clock was set back.
        oldest, newest = (now_ms - window_ms) // _SLOT_MS, now_ms // _SLOT_MS + 1
        return sum(count for slot, count in self.slots.items() if oldest < slot <= newest)


class FailureBook:
    """The groups of the last hour, at most 500; those that failed last are kept."""

    def __init__(self) -> None:
        self._groups: dict[tuple[str, str], FailureGroup] = {}
        self._seen: dict[tuple[str, int], tuple[int, ...]] = {}
        self._forgotten_ms = 0
        self._version = 0
        self._shown: tuple[tuple[int, int], list[FailureGroup]] = ((-1, -1), [])

    def add(
        self,
        *,
        task: str,
        error: str,
        task_id: str,
        attempt: int,
        at_ms: int,
        message: str = "",
        queue: str = "",
        worker: str = "",
        again: bool = False,
    ) -> bool:
        """Count one failed attempt; False if it was counted already.

        Args:
            again: it may have been told long ago, as history is read over and over: what is older than all that this
                book still knows one by one was counted.

        Events and history tell of the same failure with times a little apart, so id and attempt decide; a replayed task
        fails with the same attempt again, so only within a minute.
        """
        mark = (task_id, attempt)
        times = self._seen.get(mark, ())
        group = self._groups.get((task, error))
        # Of a task that failed so often that not all times are kept, those before them have been counted.
        counted = any(abs(at_ms - each) < _SAME_MS for each in times) or (len(times) == _TIMES and at_ms < times[0])
        if counted or (again and at_ms <= self._forgotten_ms):
            if group is not None and message and not group.message:
                group.message = message
            return False
        self._seen.pop(mark, None)
        self._seen[mark] = tuple(sorted((*times, at_ms))[-_TIMES:])
        if len(self._seen) > _SEEN:
            self._forgotten_ms = max(self._forgotten_ms, self._seen.pop(next(iter(self._seen)))[-1])
        self._version += 1
        if group is None:
            group = self._groups[task, error] = FailureGroup(task, error)
        slot = at_ms // _SLOT_MS
        group.slots[slot] = group.slots.get(slot, 0) + 1
        if at_ms >= group.last_ms:
            group.last_ms, group.task_id, group.queue, group.worker = at_ms, task_id, queue, worker
            group.message = message or group.message
        if len(self._groups) > _GROUPS:
            oldest = min(self._groups.values(), key=lambda each: each.last_ms)
            del self._groups[oldest.task, oldest.error]
        return True

    def groups(self, now_ms: int) -> list[FailureGroup]:
        """Return the groups, those that fail most now first; forgets what is over an hour past."""
        stamp = (self._version, now_ms // 1_000)
        if self._shown[0] != stamp:
            self._shown = (stamp, self._groups_at(now_ms))
        return self._shown[1]

    def _groups_at(self, now_ms: int) -> list[FailureGroup]:
        oldest = (now_ms - KEPT_MS) // _SLOT_MS
        for key, group in list(self._groups.items()):
            for slot in [slot for slot in group.slots if slot <= oldest]:
                del group.slots[slot]
            if not group.slots:
                del self._groups[key]
        order = {key: (-each.count(now_ms), -each.count(now_ms, KEPT_MS)) for key, each in self._groups.items()}
        return sorted(self._groups.values(), key=lambda each: (*order[each.task, each.error], -each.last_ms, each.key))
