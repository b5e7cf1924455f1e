"""One queue: where each of its tasks stands, in order."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Final

from stem.adapters.memory.ordered import Key, OrderedIds
from stem.adapters.memory.record import Place, Record


class Line:
    """The indexes of one queue. A record stands in at most one of them; `put` and `take` keep `record.place` true.

    Keys: ready and held by (9 - priority, sequence), so that 9 comes first and equals keep their order; delayed and
    retrying by due time; leased by deadline; dead by time of death, the newest first.
    """

    def __init__(self, name: str, sequence: Iterator[int]) -> None:
        self.name = name
        self.ready = OrderedIds()
        self.delayed = OrderedIds()
        self.retrying = OrderedIds()
        self.leased = OrderedIds()
        self.dead = OrderedIds()
        self.held: dict[str, OrderedIds] = {}
        self.enqueued_total = 0
        self.swept_ms: int | None = None
        # One for all queues of a broker, so that a key is used once and a listing of several queues can follow it.
        self._sequence = sequence

    def put(self, record: Record, place: Place, score: int) -> None:
        """Stand a task in a place. `score`: its due time, deadline or time of death; elsewhere the priority decides."""
        self.take(record)
        turn = next(self._sequence)
        if place in (Place.READY, Place.HELD):
            score = 9 - record.priority
        key = (-score, -turn) if place is Place.DEAD else (score, turn)
        if place is Place.HELD:
            self.held.setdefault(record.task, OrderedIds()).add(record.id, key)
        else:
            self.index(place).add(record.id, key)
        record.place = place

    def take(self, record: Record) -> None:
        """Take a task out of the place it stands in, if it stands in one."""
        if record.place is Place.HELD:
            held = self.held.get(record.task)
            if held is not None and held.remove(record.id) and not held:
                del self.held[record.task]
        elif record.place is not Place.NOWHERE:
            self.index(record.place).remove(record.id)
        record.place = Place.NOWHERE

    def index(self, place: Place) -> OrderedIds:
        """Return the index of a place that has one index (all but the held ones)."""
        if place is Place.READY:
            return self.ready
        if place is Place.DELAYED:
            return self.delayed
        if place is Place.RETRYING:
            return self.retrying
        if place is Place.LEASED:
            return self.leased
        return self.dead

    def stands(self, record: Record) -> bool:
        """Say whether the index that the record names does hold it."""
        if record.place is Place.NOWHERE:
            return False
        if record.place is Place.HELD:
            return record.id in self.held.get(record.task, ())
        return record.id in self.index(record.place)

    def count(self, place: Place) -> int:
        if place is Place.HELD:
            return sum(len(held) for held in self.held.values())
        return len(self.index(place))

    @property
    def waiting(self) -> int:
        """How many the length limit counts: ready, delayed, retrying and held."""
        return len(self.ready) + len(self.delayed) + len(self.retrying) + self.count(Place.HELD)

    def next_due_ms(self) -> int | None:
        dues = [due for due in (self.delayed.first_score(), self.retrying.first_score()) if due is not None]
        return min(dues, default=None)

    def heads(self) -> Iterator[str]:
        """Yield the id that is next in each priority in use."""
        for rank in range(10):
            for key, task_id in self.ready.after((rank - 1, _BEHIND)):
                if key[0] == rank:
                    yield task_id
                break

    def after(self, place: Place, key: Key | None) -> Iterator[tuple[Key, str]]:
        """Yield the ids of a place in order, from behind `key`."""
        if place is Place.HELD:
            return heapq.merge(*(held.after(key) for held in self.held.values()))
        return self.index(place).after(key)


_BEHIND: Final = 1 << 62
