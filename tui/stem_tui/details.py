"""What the details of one worker say, line by line. Pure: values in, cells out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from stem.control.answer import Answers
from stem.control.diagnose import MEANING
from stem.observe.rows import WorkerLine
from stem.text import clean
from stem_tui import figures
from stem_tui.select import worker_sign
from stem_tui.theme import Cell

Lines = list[list[Cell]]
_LABEL: Final = 12
_MOST: Final = 1e15
"""More bytes or seconds than there can be."""
_MEANING: Final = {str(word): text for word, text in MEANING.items()} | {"healthy": "", "late": "its beat is overdue"}


def fact(label: str, *cells: Cell) -> list[Cell]:
    return [Cell(f"   {label:<{_LABEL}}", "head"), *cells]


def title(text: str, width: int) -> list[Cell]:
    return [Cell("─ ", "rule"), Cell(text, "title"), Cell(" " + "─" * max(0, width - len(text) - 4), "rule")]


# -------------------------------------------------------------------------------------------------------------- worker


def worker_lines(
    row: WorkerLine, now_ms: int, width: int, *, stats: Mapping[str, Any] | None = None, said: str = ""
) -> Lines:
    """Return the facts of a worker; the tasks and events of it stand in lists below.

    Args:
        stats: what it answered to `stats`; None as long as it has not.
        said: why there is no answer.
    """
    sign = worker_sign(row)
    meaning = _MEANING.get(row.diagnosis, "")
    since, alive = figures.age(row.at_ms, now_ms), row.diagnosis not in ("lost", "stopped")
    lines: Lines = [
        title(f"WORKER {row.name}", width),
        fact("state", Cell(f"{sign.glyph} {sign.word}", sign.tone), Cell(f"  {meaning}", "dim")),
        fact("beat", Cell(f"{since} ago"), Cell(f"  every {figures.span(row.interval_ms)}", "dim")),
        fact(
            "slots",
            Cell(f"{figures.bar(row.in_flight if alive else 0, row.concurrency, 10)} ", "ok" if alive else "faint"),
            # What a lost worker had at its last beat went back to the queue since, or will.
            Cell(f"{'–' if row.diagnosis == 'lost' else row.in_flight} of {row.concurrency} in use", "strong"),
            *_zombies(row),
        ),
        fact("queues", *_queues(row)),
        fact("counters", *_counters(row)),
        fact("process", Cell(f"{row.host}  pid {row.pid}"), Cell(f"  stem {row.version}  id {clean(row.key)}", "dim")),
        fact(
            "up",
            Cell(figures.age(row.started_ms, now_ms) if alive else "–"),
            Cell(f"  since {figures.date(row.started_ms // 1000 * 1000)[:-5]}Z", "dim"),
        ),
        fact(
            "load",
            Cell(f"cpu {row.cpu_percent:.0f}%  rss {figures.size(row.rss_bytes)}" if alive else "–"),
            Cell(
                f"  broker {row.rtt_ms:.1f}ms  loop {figures.span(row.loop_age_ms)}"
                f"  clock {row.clock_offset_ms:+d}ms  epoch {row.epoch}"
                if alive
                else "",
                "dim",
            ),
        ),
    ]
    return [*lines, *(_pools(stats, said) if alive else [fact("pools", Cell("–", "dim"))])]


def _pools(stats: Mapping[str, Any] | None, said: str) -> Lines:
    """Return what a worker says of its threads and child processes; grey, with the reason, where that was before."""
    if stats is None:
        return [fact("pools", Cell(said or "asking …", "warn" if said else "dim"))]
    if said:
        old = [[Cell(cell.text, "stale") for cell in line] for line in _pools(stats, "")]
        return [fact("pools", Cell(said, "warn")), *old]
    pools = stats.get("pools")
    counts = pools if isinstance(pools, Mapping) else {}
    words = [f"{counts.get('threads', 0)} threads", f"{counts.get('processes', 0)} child processes"]
    waiting = [(counts.get(f"waiting_for_{what}"), what) for what in ("thread", "process")]
    late = "".join(f"  ! {clean(count, 12)} wait for a {what}" for count, what in waiting if count)
    lines: Lines = [fact("pools", Cell(", ".join(clean(word, 60) for word in words)), Cell(late, "warn"))]
    children = stats.get("children")
    for child in list(children)[:20] if isinstance(children, Sequence) and not isinstance(children, str) else ():
        if isinstance(child, Mapping):
            lines.append(fact("child", *_child(child)))
    return lines


def _child(child: Mapping[str, Any]) -> list[Cell]:
    rss, age = _number(child.get("rss_bytes")), _number(child.get("age_s"))
    task = clean(child.get("task_id") or "", 64)
    facts = [f"pid {clean(child.get('pid'), 12)}"]
    if rss is not None:
        facts.append(f"rss {figures.size(int(rss))}")
    facts.append(f"{clean(child.get('tasks_done', 0), 12)} done")
    if age is not None:
        facts.append(f"up {figures.span(age * 1000)}")
    return [
        Cell(f"{clean(child.get('state') or '?', 20):<9}", "accent" if task else "text"),
        Cell("  ".join(facts), "dim"),
        Cell(f"  runs {task}" if task else "", "text"),
    ]


def _number(value: object) -> float | None:
    """Return a number of a worker's answer; None for what is none or cannot be meant: also for `inf` and `nan`."""
    return float(value) if isinstance(value, int | float) and abs(value) < _MOST else None


def _queues(row: WorkerLine) -> list[Cell]:
    cells: list[Cell] = []
    for queue in row.queues[:50]:
        paused = queue in row.paused
        cells.append(Cell(f"‖ {queue} (paused)  " if paused else f"{queue}  ", "warn" if paused else "text"))
    return cells or [Cell("–", "dim")]


def _zombies(row: WorkerLine) -> list[Cell]:
    if not row.zombie_threads:
        return []
    return [Cell(f"  ! {row.zombie_threads} threads past their time limit: their slots are lost", "bad")]


def _counters(row: WorkerLine) -> list[Cell]:
    tones = {"succeeded": "ok", "failed": "bad", "retried": "warn", "lost": "bad"}
    cells = []
    for name, count in row.counters.items():
        if not count and name not in ("succeeded", "failed"):
            continue
        tone = tones.get(name, "text") if count else "faint"
        cells.append(Cell(f"{name.replace('_', ' ')} {count:,}  ", tone))
    return cells or [Cell("–", "dim")]


def stack_lines(answers: Answers, name: str, width: int) -> Lines:
    """Return the stacks a worker sent, or why there are none."""
    lines: Lines = [title(f"STACK {name}", width)]
    for answer in answers.workers:
        if not answer.ok:
            words = f"   refused: {clean(answer.error_code, 40)} {clean(answer.error_message, 300)}"
            lines.append([Cell(words, "bad")])
            continue
        lines.extend(_stacks(answer.data))
    for silent in answers.silent:
        words = f"   no answer in {answers.elapsed_ms / 1000:.1f}s: the worker is {clean(silent.diagnosis, 20)}"
        lines.append([Cell(words, "bad")])
    if len(lines) == 1:
        lines.append([Cell("   No such worker any more.", "dim")])
    return lines


def _stacks(data: Mapping[str, Any]) -> Lines:
    lines: Lines = []
    for label, value in data.items():
        lines.append([Cell(f"   {clean(label, 100)}", "strong")])
        if isinstance(value, str):
            lines.extend([Cell(f"     {line}")] for line in figures.text_lines(value))
        elif isinstance(value, list):
            for each in value:
                if isinstance(each, Mapping) and isinstance(each.get("stack"), list):
                    lines.extend(_stack(each, each["stack"]))
                    continue
                shown = figures.text_lines(each) if isinstance(each, str) else figures.value_lines(each)
                lines.extend([Cell(f"     {line}")] for line in shown)
                lines.append([])
        elif isinstance(value, Mapping):
            lines.extend(_stacks_within(value))
        else:
            lines.append([Cell(f"     {clean(value)}")])
    return lines


def _stack(row: Mapping[str, Any], frames: Sequence[Any]) -> Lines:
    title = clean(row.get("thread") or row.get("task") or row.get("id") or "?", 100)
    lines: Lines = [[Cell("     "), Cell(title, "accent")]]
    for frame in frames[-200:]:
        place, _, code = clean(frame, 400).partition(": ")
        lines.append([Cell(f"       {place}", "dim"), Cell(f"  {code}")])
    return [*lines, []]


def _stacks_within(data: Mapping[str, Any]) -> Lines:
    lines: Lines = []
    for label, value in data.items():
        lines.append([Cell(f"     {clean(label, 100)}", "accent")])
        shown = figures.text_lines(value) if isinstance(value, str) else figures.value_lines(value)
        lines.extend([Cell(f"       {line}")] for line in shown)
    return lines
