"""What a soak says at its end: its figures as Markdown, and what does not hold."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from tests.soak.run import LONG, Soaked
from tests.soak.slope import LEAST, Slope, fit

WARM_UP: Final = 0.25
"""Of the load: what an allocator takes at first it keeps, and that is no leak."""
STEP_MB: Final = 0.25
"""By this an allocator takes more memory at a time. So ten minutes tell growth from 3 MB an hour on, an hour 1.4 MB."""
MB: Final = 1e6
HOUR_S: Final = 3600.0
LIMIT_MB_H: Final = 1.0
BLOCKS_PER_1000: Final = 20
"""Blocks of memory kept for each thousand tasks: from there on something is held of every fiftieth."""
BLOCKS_AT_FIRST: Final = 2_000
"""What takes them anyhow: rows of statistics, code that runs for the first time, free lists of the interpreter."""


def growth(soaked: Soaked) -> dict[str, Slope]:
    """Return by how many MB an hour the memory of each long-lived worker grew after the warm-up."""
    found = {}
    for name, samples in soaked.samples.items():
        rest = samples[round(len(samples) * WARM_UP) :]
        if len(rest) >= LEAST:
            found[name] = fit([(one.at_s / HOUR_S, one.anon_bytes / MB) for one in rest], step=STEP_MB)
    return found


def blocks_kept(soaked: Soaked, name: str) -> int:
    """Return how many more blocks of memory a worker holds after the load than before, garbage collected."""
    first, *_, last = soaked.settled[name]
    return last["blocks"] - first["blocks"]


def complaints(soaked: Soaked, limit_mb_h: float) -> list[str]:
    """Return what does not hold."""
    found = list(soaked.violations)
    slopes = growth(soaked)
    for name in LONG:
        if name not in slopes:
            found.append(f"{name}: too few samples to say whether its memory grows")
        elif slopes[name].over(limit_mb_h):
            found.append(f"{name} grows by {_range(slopes[name])} MB/h, allowed are {limit_mb_h:g}")
        if len(soaked.settled.get(name, [])) < 2:
            continue
        kept = blocks_kept(soaked, name)
        if kept > BLOCKS_AT_FIRST + BLOCKS_PER_1000 * soaked.tasks / len(LONG) / 1000:
            found.append(f"{name} holds {kept} more blocks of memory than before {soaked.tasks} tasks")
    if soaked.quiet_after_s is None and not soaked.violations:
        found.append("it never came to an end")
    return found


def summary(soaked: Soaked, seed: int, wrong: Collection[str]) -> str:
    """Return the soak in one line."""
    per_hour = ", ".join(_range(slope) for slope in growth(soaked).values())
    return (
        f"soak: {'FAILED' if wrong else 'held'}: {soaked.seconds / 60:.3g} minutes, {_grouped(soaked.tasks)} tasks "
        f"({soaked.tasks / soaked.seconds:.0f}/s), lost {soaked.lost}, ended twice {soaked.doubled}, extra starts "
        f"{soaked.extra_starts}; memory of the workers grew by {per_hour} MB/h; seed {seed}"
    )


def markdown(soaked: Soaked) -> str:
    """Return what was done, and every figure before and after."""
    done = ", ".join(f"{_grouped(count)} x {what}" for what, count in soaked.done.most_common())
    lines = [
        f"{_grouped(soaked.tasks)} tasks ({soaked.tasks / soaked.seconds:.0f} a second); {done}. Lost: {soaked.lost}; "
        f"ended twice: {soaked.doubled}; started once more because of the faults: {soaked.extra_starts}. "
        + (
            "It did not become quiet."
            if soaked.quiet_after_s is None
            else f"Everything was as before {max(1, round(soaked.quiet_after_s))} s after the last task."
        ),
        "",
        "| | before | after | an hour (95 % certain) |",
        "|---|---|---|---|",
    ]
    slopes = growth(soaked)
    for name in LONG:
        if name not in soaked.before or name not in soaked.after:
            continue
        was, now = soaked.before[name], soaked.after[name]
        slope = f"{_range(slopes[name])} MB" if name in slopes else ""
        lines.append(
            f"| {name}: resident memory | {was.rss_bytes / MB:.1f} MB | {now.rss_bytes / MB:.1f} MB | {slope} |"
        )
        if len(soaked.settled.get(name, [])) > 1:
            first, *_, last = soaked.settled[name]
            lines.append(f"| {name}: blocks of Python's | {first['blocks']} | {last['blocks']} | |")
        lines.append(f"| {name}: file descriptors, threads | {was.fds}, {was.threads} | {now.fds}, {now.threads} | |")
    before, after = soaked.server_before, soaked.server_after
    if before is not None and after is not None:
        lines += [
            f"| server: connections | {before.connections} | {after.connections} | |",
            f"| server: consumers | {before.consumers} | {after.consumers} | |",
            f"| server: keys without a time to live | {len(before.lasting)} | {len(after.lasting)} | |",
            f"| server: memory | {before.memory_bytes / MB:.1f} MB | {after.memory_bytes / MB:.1f} MB | |",
        ]
    return "\n".join(lines)


def _range(slope: Slope) -> str:
    return f"{slope.value:+.2f} ({slope.low:+.2f} to {slope.high:+.2f})"


def _grouped(number: int) -> str:
    return f"{number:,}".replace(",", " ")
