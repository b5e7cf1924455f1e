"""What runs, longest first: the same as if it were sorted anew at each look."""

from __future__ import annotations

import random

import pytest

from stem.observe.longest import Longest
from stem.observe.rows import TaskLine


@pytest.mark.parametrize("seed", range(8))
def test_the_first_are_those_that_sorting_finds(seed: int) -> None:
    chance = random.Random(seed)
    running: dict[str, TaskLine] = {}
    longest = Longest(running)
    for step in range(6_000):
        key = f"t{chance.randrange(300)}"
        match chance.choice(("start", "start", "again", "end")):
            case "start":
                row = running.setdefault(key, TaskLine(key, key))
                row.started_ms = step // 7
                longest.put(row)
            case "again" if key in running:
                longest.put(running[key])
            case _:
                running.pop(key, None)
        if chance.random() < 0.1:
            count = chance.choice((1, 8, 1_000))
            assert longest.first(count) == sorted(running.values(), key=lambda row: (row.started_ms, row.key))[:count]


def test_what_ended_is_not_held_for_ever() -> None:
    running: dict[str, TaskLine] = {}
    longest = Longest(running)
    for number in range(50_000):
        running.clear()
        row = running["t"] = TaskLine("t", "t", started_ms=number)
        longest.put(row)

    assert len(longest._heap) == len(longest._placed) < 2_000
    assert longest.first(3) == [row]
