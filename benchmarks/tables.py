"""Results as Markdown tables. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from benchmarks.figures import shown
from benchmarks.results import Entry, Result
from benchmarks.rows import BY_NAME, ROWS, Row

COSTS: Final = ("worker-cpu", "server-cpu", "commands", "bytes-in", "bytes-out", "queued-bytes", "finished-bytes")
SIDE_BY_SIDE: Final = (
    ("noop", "ignored", "two", "nap"),
    ("enqueue-one", "enqueue-sync", "enqueue-batch"),
    ("start-p50", "start-p99", "result-p50", "result-p99", "due-p99"),
    COSTS,
    ("rss", "first"),
)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table: the first column to the left, the others to the right."""
    lines = [list(head), ["---", *["---:"] * (len(head) - 1)], *([_cell(each) for each in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def goals(result: Result) -> str:
    """Return the goals one by one: asked for, reached, met or missed."""
    lines = []
    for row in ROWS:
        verdicts = result.verdicts(row)
        for number, verdict in enumerate(verdicts):
            title = f"{result.title(row)}{f' ({row.unit})' if row.unit else ''}" if not number else ""
            lines.append([title, verdict.target, verdict.reached, "met" if verdict.met else "**missed**"])
    return table(["", "goal", "reached", ""], lines)


def summary(result: Result) -> str:
    """Return how many goals are met, in one sentence."""
    verdicts = [each for row in ROWS for each in result.verdicts(row)]
    met = sum(each.met for each in verdicts)
    return f"{met} of {len(verdicts)} goals are met."


def side_by_side(result: Result, names: Sequence[str]) -> str:
    """Return several rows as one table, a line for each contestant: the median, and the lowest and highest round."""
    there = [BY_NAME[name] for name in names if result.rows.get(name)]
    labels = list(dict.fromkeys(each.label for row in there for each in result.rows[row.name]))
    head = ["", *(f"{result.title(row)}{f', {row.unit}' if row.unit else ''}" for row in there)]
    lines = []
    for label in labels:
        found = [result.entry(row.name, label) for row in there]
        lines.append([label, *(spread(each) if each else "" for each in found)])
    return table(head, lines)


def spread(entry: Entry) -> str:
    """Return the median and, of several rounds, the lowest and the highest."""
    if len(entry.values) == 1:
        return shown(entry.median)
    return f"{shown(entry.median)} ({shown(min(entry.values))} to {shown(max(entry.values))})"


def rest(result: Result) -> str:
    """Return what only Stem was measured for (and celery, where it has the like)."""
    shared = {name for names in SIDE_BY_SIDE for name in names}
    lines = []
    for row in ROWS:
        if row.name in shared or not result.rows.get(row.name):
            continue
        entries = "; ".join(f"{each.label} {spread(each)}" for each in result.rows[row.name])
        lines.append([f"{_context(row)}{result.title(row)}{f', {row.unit}' if row.unit else ''}", entries])
    return table(["", ""], lines).replace("| ---: |", "| --- |", 1)


def _context(row: Row) -> str:
    return "how long it takes: " if row.name.startswith("full-") else ""


def circumstances(result: Result) -> str:
    """Return where, when and with what this was measured."""
    lines = [["measured", f"{result.at}, commit `{result.commit}`, {result.elapsed_s / 60:.0f} minutes"]]
    lines += [[name, value] for name, value in result.machine.items()]
    lines.append(["Stem's client", ", ".join(f"{n} {v}" for n, v in result.versions.items() if n in _CLIENT)])
    lines += [[name, value] for name, value in result.versions.items() if name not in _CLIENT]
    return table(["", ""], lines).replace("| ---: |", "| --- |", 1)


_CLIENT: Final = ("redis", "hiredis", "uvloop")


def tuned(result: Result) -> str:
    return "\n".join(f"- {name}: {text}." for name, text in result.tuned.items())


def left_out(result: Result) -> str:
    """Return who could not be measured in what, and why."""
    if not result.left_out:
        return "Nothing was left out."
    return "Left out:\n\n" + "\n".join(f"- {what}: {_plain(why)}" for what, why in result.left_out.items())


def _plain(text: str) -> str:
    kept = "".join(each if each.isprintable() and each not in "<>`*_|[]" else " " for each in text)
    return " ".join(kept.split())[:160]


def curve(points: Mapping[str, Sequence[Sequence[float]]], x_label: str) -> str:
    """Return a curve as a table: a line for each x, a column for each series."""
    xs = sorted({point[0] for series in points.values() for point in series})
    by = {name: {point[0]: point[1] for point in series} for name, series in points.items()}
    rows = [[shown(x), *(shown(by[name][x]) if x in by[name] else "" for name in points)] for x in xs]
    return table([x_label, *points], rows)
