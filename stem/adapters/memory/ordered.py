"""Ids in the order of their keys, as a Redis sorted set keeps them; knows nothing of tasks."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from typing import Final

Key = tuple[int, int]
"""What orders: a score (a due time, a deadline, a rank), then a sequence number that is used once."""

_Item = tuple[int, int, str]
_CHUNK: Final = 512


class OrderedIds:
    """A set of ids sorted by key: add, remove, first and last cost O(log n) and the shift of one short list.

    Kept as chunks of at most 1 024 items, because one long list would shift everything behind an insertion.
    """

    __slots__ = ("_chunks", "_keys", "_lasts")

    def __init__(self) -> None:
        self._chunks: list[list[_Item]] = []
        self._lasts: list[_Item] = []
        self._keys: dict[str, Key] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, item_id: object) -> bool:
        return item_id in self._keys

    def add(self, item_id: str, key: Key) -> None:
        """Put an id in its place; one that is there already moves."""
        if item_id in self._keys:
            self.remove(item_id)
        item = (key[0], key[1], item_id)
        self._keys[item_id] = key
        if not self._chunks:
            self._chunks.append([item])
            self._lasts.append(item)
            return
        at = min(bisect_left(self._lasts, item), len(self._chunks) - 1)
        chunk = self._chunks[at]
        insort(chunk, item)
        if len(chunk) > 2 * _CHUNK:
            self._chunks.insert(at + 1, chunk[_CHUNK:])
            del chunk[_CHUNK:]
            self._lasts.insert(at + 1, self._chunks[at + 1][-1])
        self._lasts[at] = chunk[-1]

    def remove(self, item_id: str) -> bool:
        """Take an id out; False if it was not there."""
        key = self._keys.pop(item_id, None)
        if key is None:
            return False
        item = (key[0], key[1], item_id)
        at = bisect_left(self._lasts, item)
        chunk = self._chunks[at]
        del chunk[bisect_left(chunk, item)]
        if chunk:
            self._lasts[at] = chunk[-1]
        else:
            del self._chunks[at], self._lasts[at]
        return True

    def first(self) -> str | None:
        return self._chunks[0][0][2] if self._chunks else None

    def last(self) -> str | None:
        return self._chunks[-1][-1][2] if self._chunks else None

    def first_score(self) -> int | None:
        return self._chunks[0][0][0] if self._chunks else None

    def count_to(self, score: int) -> int:
        """Return how many have this score or a lower one."""
        behind = (score + 1,)
        at = bisect_left(self._lasts, behind)
        part = bisect_left(self._chunks[at], behind) if at < len(self._chunks) else 0
        return sum(map(len, self._chunks[:at])) + part

    def after(self, key: Key | None = None) -> Iterator[tuple[Key, str]]:
        """Yield what comes after `key` (or everything), in order; the set must not change meanwhile."""
        at, start = 0, 0
        if key is not None:
            # No id sorts behind "\U0010ffff": this is the place just after the key itself.
            item = (key[0], key[1], "\U0010ffff")
            at = bisect_left(self._lasts, item)
            start = bisect_left(self._chunks[at], item) if at < len(self._chunks) else 0
        for index in range(at, len(self._chunks)):
            chunk = self._chunks[index]
            for position in range(start, len(chunk)):
                first, second, item_id = chunk[position]
                yield (first, second), item_id
            start = 0
