"""What the last hour says of one queue: what came and went, how long it took, which names. Pure, knows no widget."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from stem.observe.rates import Flow
from stem.observe.rows import QueueLine
from stem.observe.state import ClusterState
from stem.text import clean
from stem_tui import figures
from stem_tui.columns import Column, View
from stem_tui.details import Lines, fact, title
from stem_tui.select import NONE, number, queue_sign
from stem_tui.theme import Cell

HEAD: Final = 8
"""Lines of `queue_lines`."""
HEAD_LOW: Final = 4
_BESIDE: Final = 36
"""Cells of a chart's line that are not the chart."""


def _percentile(flow: Flow, share: float) -> str:
    value = flow.percentile_ms(share)
    return "–" if value is None else figures.about(value)


def _share(part: int, whole: int) -> str:
    """Return per cent of a whole; what is there at all is never 0 %."""
    if not part or not whole:
        return ""
    percent = 100 * part / whole
    return "<0.1%" if percent < 0.1 else f"{percent:.1f}%" if percent < 9.95 else f"{percent:.0f}%"


def queue_lines(
    state: ClusterState, line: QueueLine | None, name: str, now_ms: int, *, width: int, height: int = HEAD
) -> Lines:
    """Return what there is to say of a queue: its state, who works on it, and its last hour; charts fill the height."""
    if line is None:
        return [title(f"QUEUE {name}", width), [Cell("   No such queue any more: nothing stands in it.", "dim")]]
    sign = queue_sign(line)
    oldest = NONE if line.oldest_ms is None else Cell(f"oldest waits {figures.ago(line.oldest_ms)}", "text")
    lines: Lines = [
        title(f"QUEUE {line.name}", width),
        fact("state", Cell(f"{sign.glyph} {sign.word}", sign.tone), *_pause(line, now_ms), Cell("  "), oldest),
        fact("workers", *_workers(state, line)),
    ]
    hour, minutes = state.minutes.flow(queue=line.key), state.minutes.each_minute(queue=line.key)
    points, tall = max(0, min(60, width - _BESIDE)), max(1, min(5, (height - HEAD_LOW) // 4))
    failed, ended = hour.count("failed"), hour.count("succeeded", "failed")
    timing = [
        Cell(f"p50 {_percentile(hour, 0.5)}  p95 {_percentile(hour, 0.95)}  p99 {_percentile(hour, 0.99)}", "strong"),
        Cell(f"  waits {figures.span(hour.mean_wait_ms)} on average" if hour.mean_wait_ms is not None else "", "dim"),
    ]
    lines.append(fact("run, 1h", *(timing if hour.timed else [Cell("nothing ran", "dim")])))
    charts = (
        ("in, 1h", ("enqueued",), "accent", f"{figures.rate(line.came.rate())}/s"),
        ("ok, 1h", ("succeeded",), "ok", f"{figures.rate(line.went.rate())}/s out"),
        ("failed, 1h", ("failed",), "bad", _share(failed, ended)),
        ("retried, 1h", ("retried",), "warn", ""),
    )
    for label, names, tone, said in charts:
        values = [float(each.count(*names)) for each in minutes]
        lines += _chart(label, values, tone, said, points=points, height=tall)
    return lines


def _pause(line: QueueLine, now_ms: int) -> list[Cell]:
    if not line.paused:
        return []
    until = line.paused_until_ms
    ends = "until resumed" if until is None else f"for {figures.ago(until - now_ms)} more"
    said = f'  "{line.paused_reason}"' if line.paused_reason else ""
    by = f" by {line.paused_by}" if line.paused_by else ""
    since = f" {figures.age(line.paused_at_ms, now_ms)} ago" if line.paused_at_ms else ""
    return [Cell(f"{by}{since}, {ends}", "warn"), Cell(said, "dim")]


def _workers(state: ClusterState, line: QueueLine) -> list[Cell]:
    """Name who takes from it, with slots in use; the busiest first."""
    if not line.consumers:
        words = "none takes from it: its tasks wait" if line.ready or line.delayed or line.retrying else "none"
        return [Cell(words, "warn" if line.ready else "dim")]
    takers = [
        row for row in state.workers.values() if line.name in row.queues and row.diagnosis not in ("lost", "stopped")
    ]
    takers.sort(key=lambda row: (-row.in_flight, row.name))
    named = "  ".join(f"{row.name} {row.in_flight}/{row.concurrency}" for row in takers[:12])
    more = f"  and {len(takers) - 12} more" if len(takers) > 12 else ""
    return [Cell(f"{line.consumers}  ", "strong"), Cell(named + more, "text")]


def _chart(label: str, values: Sequence[float], tone: str, said: str, *, points: int, height: int) -> Lines:
    """Return a chart, its sum at the left and what it is now at the right; nothing at all takes one line."""
    total = int(sum(values))
    drawn = figures.chart(values, points, height if total else 1)
    last = fact(
        label,
        Cell(f"{figures.count(total):>7} ", "strong" if total else "faint"),
        Cell(drawn[-1], tone if total else "faint"),
        Cell(f"  {said}", "dim"),
    )
    return [*([Cell(" " * len(last[0].text + last[1].text)), Cell(line, tone)] for line in drawn[:-1]), last]


# --------------------------------------------------------------------------------------------------------------- names


def _time(flow: Flow, share: float) -> Cell:
    return Cell(_percentile(flow, share), "text") if flow.timed else NONE


NAMES: Final[View[Flow]] = View(
    kind="name",
    title="BY TASK, last hour",
    key=lambda row: row.name,
    columns=(
        Column(key="name", title="TASK", width=14, grow=2, cell=lambda r, _: Cell(clean(r.name), "strong"),
               sort=lambda r: r.name),
        Column(key="ok", title="OK", width=6, align="right", cell=lambda r, _: number(r.count("succeeded")),
               sort=lambda r: r.count("succeeded"), down=True),
        Column(key="fail", title="FAIL", width=5, align="right", cell=lambda r, _: number(r.count("failed"), "bad"),
               sort=lambda r: r.count("failed"), down=True),
        Column(key="retry", title="RETRY", width=5, align="right", keep=2,
               cell=lambda r, _: number(r.count("retried"), "warn"), sort=lambda r: r.count("retried"), down=True),
        Column(key="p50", title="P50", width=6, align="right", keep=3, cell=lambda r, _: _time(r, 0.5),
               sort=lambda r: r.percentile_ms(0.5), down=True),
        Column(key="p95", title="P95", width=6, align="right", keep=1, cell=lambda r, _: _time(r, 0.95),
               sort=lambda r: r.percentile_ms(0.95), down=True),
        Column(key="time", title="TIME", width=6, align="right", keep=4,
               cell=lambda r, _: Cell(figures.span(r.run_ms), "dim") if r.run_ms else NONE,
               sort=lambda r: r.run_ms or None, down=True),
    ),
    fields={
        "name": lambda r, _: clean(r.name),
        "ok": lambda r, _: float(r.count("succeeded")),
        "failed": lambda r, _: float(r.count("failed")),
    },
)  # fmt: skip
"""Without a column chosen, in the order they come: what takes most of the workers' time first."""
