"""A line through noisy samples: the slope of Theil and Sen, and how sure it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, median
from typing import Final

LEAST: Final = 8
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


def fit(points: Sequence[tuple[float, float]]) -> Slope:
    """Return the median of the slopes between all pairs of points, which a few wild ones do not move.

    The bounds are Sen's, by the rank of the slopes, widened for samples that follow each other: a resident set that
    jumps and then stays is one piece of news, not as many as there are samples after it.

    Raises:
        ValueError: too few points, or all at the same x.
    """
    if len(points) < LEAST:
        raise ValueError(f"{len(points)} points are too few for a slope: {LEAST} at least")
    slopes = sorted(
        (second[1] - first[1]) / (second[0] - first[0])
        for number, first in enumerate(points)
        for second in points[number + 1 :]
        if second[0] != first[0]
    )
    if not slopes:
        raise ValueError("all points are at the same x")
    value = median(slopes)
    n = len(points)
    spread = _Z * math.sqrt(n * (n - 1) * (2 * n + 5) / 18 * _inflation(points, value))
    low = round((len(slopes) - spread) / 2)
    high = round((len(slopes) + spread) / 2)
    return Slope(
        value,
        slopes[low] if low >= 0 else -math.inf,
        slopes[high] if high < len(slopes) else math.inf,
    )


def _inflation(points: Sequence[tuple[float, float]], slope: float) -> float:
    """Return by how much fewer independent samples there are than samples, from how alike neighbours are."""
    rests = [y - slope * x for x, y in points]
    middle = fmean(rests)
    rests = [rest - middle for rest in rests]
    power = sum(rest * rest for rest in rests)
    if power == 0:
        return 1.0
    alike = sum(a * b for a, b in pairwise(rests)) / power
    alike = min(0.98, max(0.0, alike))
    return (1 + alike) / (1 - alike)
