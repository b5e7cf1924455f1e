"""Medians, percentiles and ratios. Pure: numbers go in, numbers come out."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that `share` (0 to 1) of the values do not exceed: the nearest rank, so one that was measured.

    Raises:
        ValueError: there are none, or the share is none.
    """
    if not values or not 0 < share <= 1:
        raise ValueError(f"the {share} percentile of {len(values)} values")
    ordered = sorted(values)
    return ordered[math.ceil(share * len(ordered)) - 1]


def ratio(value: float, other: float) -> float | None:
    """Return how many times `other` the value is; None where that says nothing."""
    return value / other if other > 0 else None


def rounded(value: float) -> float:
    """Return the value with three significant digits: more than that is noise."""
    if not value or not math.isfinite(value):
        return value
    return round(value, 2 - math.floor(math.log10(abs(value))))


def shown(value: float) -> str:
    """Return the value as a person reads it: 18400 -> `18 400`, 0.4251 -> `0.425`."""
    near = rounded(value)
    if abs(near) >= 100:
        return f"{near:,.0f}".replace(",", " ")
    text = f"{near:.10f}".rstrip("0").rstrip(".")
    return text or "0"
