"""Results as SVG: bars of several rows, lines of several curves. Pure; no library, no font that must be fetched."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final
from xml.sax.saxutils import escape

from benchmarks.figures import shown
from benchmarks.results import Result
from benchmarks.rows import BY_NAME

WIDTH: Final = 880
BAR: Final = 16
OURS: Final = "#1a7f5a"
RAW: Final = "#6b7280"
THEIRS: Final = "#9db4d0"
LINES: Final = ("#1a7f5a", "#b45309", "#3b6fb6", "#8b5cf6")
PANELS: Final = ("noop", "nap", "enqueue-batch", "worker-cpu", "start-p50", "result-p50")


def document(parts: Sequence[str], width: int, height: int, title: str) -> str:
    """Return a whole picture on white paper, so that it reads on a dark page too."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'font-family="system-ui, sans-serif" font-size="12">'
    )
    return "\n".join(
        [
            head,
            f"<title>{escape(title)}</title>",
            f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
            *parts,
            "</svg>",
            "",
        ]
    )


def bars(result: Result, names: Sequence[str] = PANELS) -> str:
    """Return one panel for each row: its contestants by rank, raw in grey, Stem in green."""
    parts: list[str] = []
    top = 12
    for name in names:
        if not result.rows.get(name):
            continue
        panel, height = _panel(result, name, top)
        parts += panel
        top += height + 22
    return document(parts, WIDTH, top, "Stem beside raw Redis and other queues")


def _panel(result: Result, name: str, top: int) -> tuple[list[str], int]:
    row = BY_NAME[name]
    entries = sorted(result.rows[name], key=lambda each: each.median, reverse=row.better == "higher")
    # Latencies lie orders of magnitude apart; on a straight scale all but the worst would be hidden.
    values = [each.median for each in entries if each.median > 0]
    log = bool(values) and max(values) > 50 * min(values)
    left, span = 150, WIDTH - 150 - 190
    parts = [_text(8, top + 12, f"{row.title}, {row.unit}{' (logarithmic)' if log else ''}", weight="bold")]
    for number, each in enumerate(entries):
        y = top + 24 + number * (BAR + 4)
        length = _share(each.median, values, log) * span
        colour = RAW if each.name == "raw" else OURS if each.name in ("stem", "unwatched") else THEIRS
        parts.append(_text(left - 8, y + 12, each.label, anchor="end"))
        parts.append(f'<rect x="{left}" y="{y}" width="{max(1.0, length):.1f}" height="{BAR}" fill="{colour}"/>')
        parts.append(_text(left + length + 6, y + 12, shown(each.median), fill="#374151"))
    return parts, 24 + len(entries) * (BAR + 4)


def _share(value: float, values: Sequence[float], log: bool) -> float:
    """Return how much of the axis a bar takes, 0 to 1."""
    if not values or value <= 0:
        return 0.0
    if not log:
        return value / max(values)
    low, high = math.log10(min(values)) - 0.3, math.log10(max(values))
    return (math.log10(value) - low) / (high - low) if high > low else 1.0


def lines(curves: Sequence[Mapping[str, Any]]) -> str:
    """Return a panel for each curve, two in a row; x logarithmic, y from zero, each series on its own scale."""
    wide, high = WIDTH // 2, 250
    parts: list[str] = []
    for number, each in enumerate(curves):
        parts += _curve(each, (number % 2) * wide, (number // 2) * high, wide, high)
    rows = math.ceil(len(curves) / 2)
    return document(parts, WIDTH, max(1, rows) * high, "Scaling curves of Stem")


def _curve(curve: Mapping[str, Any], x0: int, y0: int, wide: int, high: int) -> list[str]:
    left, right, top, bottom = x0 + 16, x0 + wide - 16, y0 + 58, y0 + high - 40
    series: Mapping[str, Sequence[Sequence[float]]] = curve["series"]
    xs = sorted({point[0] for points in series.values() for point in points})
    parts = [_text(left, y0 + 18, str(curve["title"]), weight="bold")]
    parts.append(f'<path d="M{left} {bottom}H{right}" stroke="#9ca3af" fill="none"/>')
    low, span = math.log10(max(xs[0], 1e-9)), math.log10(max(xs[-1], 1e-9)) - math.log10(max(xs[0], 1e-9))

    def place(x: float) -> float:
        return left + (right - left) * ((math.log10(max(x, 1e-9)) - low) / span if span else 0.5)

    for number, x in enumerate(xs):
        anchor = "start" if not number else "end" if number == len(xs) - 1 else "middle"
        if len(xs) <= 8 or number % 2 == 0 or number == len(xs) - 1:
            parts.append(_text(place(x), bottom + 15, shown(x), anchor=anchor, fill="#6b7280", size=10))
    parts.append(_text((left + right) / 2, bottom + 30, str(curve["x_label"]), anchor="middle", fill="#374151"))
    for number, (name, points) in enumerate(series.items()):
        most = max(point[1] for point in points) or 1.0
        colour = LINES[number % len(LINES)]
        spots = [(place(x), bottom - (bottom - top) * (y / most)) for x, y in sorted(map(tuple, points))]
        parts.append(
            f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in spots)}" fill="none" stroke="{colour}" '
            'stroke-width="2"/>'
        )
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colour}"/>' for x, y in spots]
        parts.append(_text(left, y0 + 33 + 13 * number, f"{name}: top is {shown(most)}", fill=colour, size=11))
    return parts


def _text(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "start",
    weight: str = "normal",
    fill: str = "#111827",
    size: int = 12,
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}" font-size="{size}" '
        f'fill="{fill}">{escape(text)}</text>'
    )
