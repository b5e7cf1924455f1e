"""A line through noisy samples: the slope of Theil and Sen, and how sure it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

LEAST: Final = 8
BLOCKS: Final = 20
_Z: Final = 1.96


@dataclass(frozen=True, slots=True)
class Slope:
    """Per unit of x: the slope, and the bounds that hold it with 95 % certainty."""

    value: float
    low: float
    high: float

    def over(self, limit: float) -> bool:
        """Whether the slope is above a limit, and not by chance."""
        return self.low > limit


def fit(points: Sequence[tuple[float, float]], *, step: float = 0.0) -> Slope:
    """Return the median of the slopes between all pairs of points, which a few wild ones do not move.

    Points that follow each other are taken together first, as they are no independent news. The bounds are Sen's, by
    the rank of the slopes.

    Args:
        step: y changes in steps of about this size anyhow, so that one step from the first point to the last says
            nothing: the bounds are widened by it.

    Raises:
        ValueError: too few points, or all at the same x.
    """
    if len(points) < LEAST:
        raise ValueError(f"{len(points)} points are too few for a slope: {LEAST} at least")
    points = _in_blocks(points)
    slopes = sorted(
        (second[1] - first[1]) / (second[0] - first[0])
        for number, first in enumerate(points)
        for second in points[number + 1 :]
        if second[0] != first[0]
    )
    if not slopes:
        raise ValueError("all points are at the same x")
    n = len(points)
    spread = _Z * math.sqrt(n * (n - 1) * (2 * n + 5) / 18)
    low = max(0, round((len(slopes) - spread) / 2))
    high = min(len(slopes) - 1, round((len(slopes) + spread) / 2))
    unsure = step / (points[-1][0] - points[0][0])
    return Slope(median(slopes), slopes[low] - unsure, slopes[high] + unsure)


def _in_blocks(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return at most `BLOCKS` points: the medians of as many stretches."""
    size = math.ceil(len(points) / BLOCKS)
    blocks = [points[first : first + size] for first in range(0, len(points), size)]
    return [(median(x for x, _ in block), median(y for _, y in block)) for block in blocks]
