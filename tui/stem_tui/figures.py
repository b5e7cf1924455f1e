"""Numbers, times and little charts as text of a steady width. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

from stem.text import clean

_BARS: Final = "▁▂▃▄▅▆▇█"
_WIDTH: Final = 400
"""So much of a line is shown; panels cut it to what they have room for."""


def count(number: int) -> str:
    """Return a count: exact below 100 000, then with three figures."""
    return f"{number:,}" if abs(number) < 100_000 else _scaled(float(number))


def rate(number: float) -> str:
    """Return events per second."""
    if number <= 0.0:
        return "0"
    if number < 9.95:
        return f"{number:.1f}"
    return f"{number:.0f}" if number < 999.5 else _scaled(number)


def _scaled(number: float) -> str:
    power = 0
    while abs(number) >= 999.5 and power < 3:
        number, power = number / 1000, power + 1
    return f"{number:.1f}{' kMG'[power]}" if abs(number) < 9.95 else f"{number:.0f}{' kMG'[power]}"


def span(milliseconds: float) -> str:
    """Return a length of time in at most six characters: `41ms 0.4s 22s 2m04s 3h12m 3d04h`."""
    seconds = max(0.0, milliseconds / 1000)
    if seconds < 0.0995:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    whole = int(seconds + 0.5)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86_400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86_400}d{whole % 86_400 // 3600:02d}h"


def about(milliseconds: float) -> str:
    """Return an estimate of a length of time: two figures at most, in at most six characters: `~41ms ~0.4s ~8.3m`."""
    seconds = max(0.0, milliseconds / 1000)
    if seconds < 0.0995:
        return f"~{seconds * 1000:.0f}ms"
    for unit, length, most in (("s", 1, 59.5), ("m", 60, 59.5), ("h", 3600, 47.5)):
        if seconds / length < most:
            return f"~{_two(seconds / length)}{unit}"
    return f"~{_two(seconds / 86_400)}d"


def _two(number: float) -> str:
    return f"{number:.1f}" if number < 9.95 else f"{number:.0f}"


def age(then_ms: int, now_ms: int) -> str:
    """Return how long ago, in whole units: `0s 22s 2m04s`; a dash for never."""
    return ago(now_ms - then_ms) if then_ms else "–"


def ago(passed_ms: int) -> str:
    """Return a length of time in whole units, so that it changes once a second at most."""
    return f"{max(0, passed_ms) // 1000}s" if passed_ms < 60_000 else span(passed_ms // 1000 * 1000)


def size(number: int) -> str:
    """Return bytes: `512K 212M 1.9G`."""
    if number <= 0:
        return "–"
    scaled, power = float(number), 0
    while scaled >= 1023.5 and power < 4:
        scaled, power = scaled / 1024, power + 1
    return f"{scaled:.1f}{'BKMGT'[power]}" if scaled < 9.95 and power > 1 else f"{scaled:.0f}{'BKMGT'[power]}"


def clock(at_ms: int, *, milliseconds: bool = False) -> str:
    """Return the time of day in UTC."""
    moment = datetime.fromtimestamp(max(0, min(at_ms, 253_402_300_799_000)) / 1000, UTC)
    return moment.strftime("%H:%M:%S") + (f".{at_ms % 1000:03d}" if milliseconds else "")


def date(at_ms: int) -> str:
    """Return date and time in UTC."""
    moment = datetime.fromtimestamp(max(0, min(at_ms, 253_402_300_799_000)) / 1000, UTC)
    return moment.strftime("%Y-%m-%d %H:%M:%S") + f".{at_ms % 1000:03d}Z"


def spark(values: Sequence[float], width: int) -> str:
    """Return a chart on a base of zero, newest at the right; what is not known yet is blank."""
    shown = list(values)[-width:] if width > 0 else []
    top = max(shown, default=0.0)
    drawn = "".join(_BARS[0] if top <= 0 else _BARS[min(7, int(max(0.0, each) / top * 7.999))] for each in shown)
    return drawn.rjust(width)


def chart(values: Sequence[float], width: int, height: int) -> list[str]:
    """Return a chart of several lines on a base of zero, newest at the right; anything above nothing shows."""
    shown = list(values)[-width:] if width > 0 else []
    top = max(shown, default=0.0)
    # The base line is drawn also where there was nothing: it says that this is known.
    eighths = [max(2, round(each / top * height * 8)) if each > 0 else 1 for each in shown]
    lines = []
    for line in range(height):
        below = (height - line - 1) * 8
        drawn = "".join(_BARS[min(8, each - below) - 1] if each > below else " " for each in eighths)
        lines.append(drawn.rjust(width))
    return lines


def bar(part: int, whole: int, width: int) -> str:
    """Return a share as a bar; anything above nothing shows."""
    filled = 0 if whole <= 0 or part <= 0 else max(1, min(width, round(width * part / whole)))
    return "█" * filled + "░" * (width - filled)


def value_lines(value: Any) -> list[str]:
    """Return a payload as clean lines of indented JSON, as many as `text_lines` keeps."""
    if value is None:
        return ["–"]
    try:
        text = json.dumps(value, indent=2, ensure_ascii=False, default=lambda each: clean(each, _WIDTH))
    except (TypeError, ValueError, RecursionError):
        text = clean(value, _WIDTH)
    return text_lines(text)


def text_lines(text: str, *, limit: int = 400) -> list[str]:
    """Return text of several lines (a traceback, a stack), each line clean; the end is what is kept."""
    lines = text[-200_000:].split("\n")
    cut = [f"… {len(lines) - limit} lines before"] if len(lines) > limit else []
    return cut + [clean(line.expandtabs(4), _WIDTH) for line in lines[-limit:]]
