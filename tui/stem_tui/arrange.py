"""Who gets how many lines of the Overview. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

WIDE: Final = 120
TALL: Final = 30
_HEAD: Final = 2


@dataclass(frozen=True, slots=True)
class Need:
    """A panel: rows it must have to be worth showing, and rows it could use."""

    name: str
    least: int
    rows: int


def share(room: int, needs: Sequence[Need]) -> dict[str, int]:
    """Return the height of each panel, in order of importance; 0 for those without room.

    Each gets what it must have first; the rest goes line by line to those that could use more, the last one shown takes
    what is left over.
    """
    heights = {need.name: 0 for need in needs}
    shown = []
    for need in needs:
        if room >= _HEAD + need.least:
            heights[need.name] = _HEAD + need.least
            room -= heights[need.name]
            shown.append(need)
    hungry = [need for need in shown if need.rows > need.least]
    while room and hungry:
        for need in list(hungry):
            if not room:
                break
            heights[need.name] += 1
            room -= 1
            if heights[need.name] >= _HEAD + need.rows:
                hungry.remove(need)
    if shown:
        heights[shown[-1].name] += room
    return heights


@dataclass(frozen=True, slots=True)
class Plan:
    """Heights of the panels; `wide` puts the workers beside the others, `tiles` shows the rates as a block."""

    wide: bool
    tiles: bool
    heights: dict[str, int]


def overview(width: int, height: int, *, queues: int, workers: int, failures: int, running: int) -> Plan:
    """Return the plan for a body of this size (without header, notice and hint); the numbers are rows there are."""
    wide, tiles = width >= WIDE, height >= TALL and width >= 100
    room = height - (4 if tiles else 1)
    many = [Need("queues", 3, max(3, queues)), Need("workers", 3, max(3, workers))]
    if not wide:
        needs = [
            *many,
            Need("failures", 2, max(2, failures)),
            Need("running", 3, max(3, running)),
            Need("events", 5, 8),
        ]
        return Plan(wide, tiles, share(room, needs))
    events = max(8, room // 3) if room >= 26 else 0
    upper = room - events
    left = [many[0], Need("failures", 2, max(2, failures)), Need("running", 2, max(2, running))]
    heights = share(upper, left)
    return Plan(wide, tiles, {**heights, "workers": upper, "events": events})


def below(room: int, rows: int, wanted: int) -> int:
    """Return the lines for what stands under a list of so many rows: what is wanted and more, or nothing.

    The list comes first; what it does not need, the other takes.
    """
    least = min(rows, 6) + _HEAD
    if room < least + wanted:
        return 0
    return max(wanted, room - _HEAD - rows)


def above(room: int, least: int, wanted: int) -> int:
    """Return the lines for what stands above a list: what is wanted where the list keeps as much, and of a tall screen
    a third."""
    if room < 2 * wanted + 3:
        return least
    return max(wanted, min(room // 3, wanted * 2))
