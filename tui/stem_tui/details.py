"""What the details of one worker and one task say, line by line. Pure: values in, cells out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from stem.control.answer import Answers
from stem.control.diagnose import MEANING
from stem.control.why import Explanation
from stem.messages.envelope import Envelope
from stem.messages.status import TaskState, TaskStatus
from stem.observe.rows import TaskLine, WorkerLine, progress_text
from stem.text import clean
from stem_tui import figures
from stem_tui.select import worker_sign
from stem_tui.theme import TASK, UNKNOWN, Cell

Lines = list[list[Cell]]
_LABEL: Final = 12
_MEANING: Final = {str(word): text for word, text in MEANING.items()} | {"healthy": "", "late": "its beat is overdue"}


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskAnswer:
    """What the broker answered about one task; `id` is the one it was asked for.

    Attributes:
        problem: why there is no answer, or only part of one; clean.
    """

    id: str
    status: TaskStatus | None = None
    envelope: Envelope | None = None
    explanation: Explanation | None = None
    problem: str = ""


def _fact(label: str, *cells: Cell) -> list[Cell]:
    return [Cell(f"   {label:<{_LABEL}}", "head"), *cells]


def _title(text: str, width: int) -> list[Cell]:
    return [Cell("─ ", "rule"), Cell(text, "title"), Cell(" " + "─" * max(0, width - len(text) - 4), "rule")]


# -------------------------------------------------------------------------------------------------------------- worker


def worker_lines(row: WorkerLine, now_ms: int, width: int) -> Lines:
    """Return the facts of a worker; the tasks and events of it stand in lists below."""
    sign = worker_sign(row)
    meaning = _MEANING.get(row.diagnosis, "")
    since = figures.age(row.at_ms, now_ms)
    lines: Lines = [
        _title(f"WORKER {row.name}", width),
        _fact("state", Cell(f"{sign.glyph} {sign.word}", sign.tone), Cell(f"  {meaning}", "dim")),
        _fact("beat", Cell(f"{since} ago"), Cell(f"  every {figures.span(row.interval_ms)}", "dim")),
        _fact("slots", Cell(f"{row.in_flight} of {row.concurrency} in use", "strong"), *_zombies(row)),
        _fact("queues", *_queues(row)),
        _fact("counters", *_counters(row)),
        _fact("process", Cell(f"{row.host}  pid {row.pid}"), Cell(f"  stem {row.version}  id {clean(row.key)}", "dim")),
        _fact(
            "up",
            Cell(figures.age(row.started_ms, now_ms)),
            Cell(f"  since {figures.date(row.started_ms // 1000 * 1000)[:-5]}Z", "dim"),
        ),
        _fact(
            "load",
            Cell(f"cpu {row.cpu_percent:.0f}%  rss {figures.size(row.rss_bytes)}"),
            Cell(
                f"  broker {row.rtt_ms:.1f}ms  loop {figures.span(row.loop_age_ms)}"
                f"  clock {row.clock_offset_ms:+d}ms  epoch {row.epoch}",
                "dim",
            ),
        ),
    ]
    return lines


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
    lines: Lines = [_title(f"STACK {name}", width)]
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


# ---------------------------------------------------------------------------------------------------------------- task


def task_lines(
    row: TaskLine | None,
    answer: TaskAnswer | None,
    task_id: str,
    now_ms: int,
    width: int,
    *,
    name_of: Callable[[str], str] = clean,
) -> Lines:
    """Return all that is known of a task: what the broker says, or until it has answered, what the list knew.

    Args:
        name_of: a worker's shown name by its id.
    """
    name = clean(task_id, 64)
    if answer is None or answer.id != task_id:
        head = f"TASK {name}"
        known = [] if row is None else [_fact("task", Cell(row.task, "strong"), Cell(f"  {row.state}", "dim"))]
        return [_title(head, width), *known, [Cell("   asking …", "dim")]]
    if answer.status is None:
        words = answer.problem or "The broker has no record of it (any more)."
        return [_title(f"TASK {name}", width), [Cell(f"   {words}", "warn")], *_remembered(row, now_ms)]
    status = answer.status
    lines: Lines = [_title(f"TASK {clean(status.task)}", width), *_facts(status, now_ms, name_of)]
    if answer.problem:
        lines.append(_fact("", Cell(answer.problem, "warn")))
    if answer.explanation is not None:
        lines += _why(answer.explanation, width)
    if status.error is not None:
        lines += _error(status, width)
    if status.state is TaskState.SUCCEEDED:
        lines += [_title("RESULT", width), *_value(status.result)]
    lines += _timeline(status, width, name_of)
    if answer.envelope is not None:
        lines += _request(answer.envelope, width)
    if status.meta:
        lines += [_title("META", width), *_value(dict(status.meta))]
    return lines


def _facts(status: TaskStatus, now_ms: int, name_of: Callable[[str], str]) -> Lines:
    sign = TASK.get(status.state.value, UNKNOWN)
    state = [Cell(f"{sign.glyph} {sign.word}", sign.tone)]
    if status.reason:
        state.append(Cell(f"  {clean(status.reason, 300)}", "dim"))
    lines: Lines = [
        _fact("state", *state),
        _fact("id", Cell(clean(status.id, 64))),
        _fact("queue", Cell(clean(status.queue)), Cell(f"  priority {status.priority}", "dim")),
        _fact("worker", Cell(name_of(status.worker) if status.worker else "–")),
        _fact("attempt", Cell(str(status.attempt)), Cell(f"  crashes {status.crashes}  starts {status.token}", "dim")),
    ]
    steps = (
        ("enqueued", status.enqueued_at_ms),
        ("due", status.due_at_ms),
        ("started", status.started_at_ms),
        ("finished", status.finished_at_ms),
        ("expires", status.expires_at_ms),
    )
    for label, at_ms in steps:
        if at_ms:
            ahead = at_ms - now_ms
            when = f"in {figures.span(ahead)}" if ahead > 0 else f"{figures.age(at_ms, now_ms)} ago"
            lines.append(_fact(label, Cell(figures.date(at_ms)), Cell(f"  {when}", "dim")))
    if status.started_at_ms and status.finished_at_ms:
        lines.append(_fact("took", Cell(figures.span(status.finished_at_ms - status.started_at_ms))))
    if status.progress is not None:
        lines.append(_fact("progress", Cell(progress_text(status.progress), "accent")))
    return lines


def _why(explanation: Explanation, width: int) -> Lines:
    lines: Lines = [_title("WHY", width), [Cell(f"   {clean(explanation.verdict, 400)}", "strong")]]
    for cause in explanation.causes:
        lines.append([Cell("   · ", "accent"), Cell(clean(cause.text, 400))])
        if cause.fix:
            lines.append([Cell("     → ", "accent"), Cell(clean(cause.fix, 400), "dim")])
    return lines


def _error(status: TaskStatus, width: int) -> Lines:
    assert status.error is not None
    title = "LAST ERROR" if not status.state.final else "ERROR"
    lines: Lines = [_title(title, width)]
    message = figures.text_lines(status.error.message, limit=20)
    lines.append([Cell(f"   {clean(status.error.type)}: ", "bad"), Cell(message[0], "strong")])
    lines.extend([Cell(f"   {line}")] for line in message[1:])
    if status.error.traceback:
        lines.append([])
        lines.extend([Cell(f"   {line}", "dim")] for line in figures.text_lines(status.error.traceback.rstrip()))
    return lines


def _timeline(status: TaskStatus, width: int, name_of: Callable[[str], str]) -> Lines:
    if not status.timeline:
        return []
    lines: Lines = [_title("TIMELINE", width)]
    before = 0
    for entry in status.timeline:
        passed = f"+{figures.span(entry.at_ms - before)}" if before else ""
        before = entry.at_ms
        lines.append(
            [
                Cell(f"   {figures.clock(entry.at_ms, milliseconds=True)}  {passed:>8}  ", "dim"),
                Cell(f"{clean(entry.event, 40):<14}", "strong"),
                Cell(f" {name_of(entry.worker)}" if entry.worker else "", "text"),
                Cell(f"  attempt {entry.attempt}" if entry.attempt else "", "warn"),
                Cell(f"  {clean(entry.detail, 300)}" if entry.detail else "", "dim"),
            ]
        )
    return lines


def _request(envelope: Envelope, width: int) -> Lines:
    lines: Lines = [_title("ARGUMENTS", width), *_value(dict(envelope.args))]
    if envelope.options:
        lines += [_title("OPTIONS", width), *_value(dict(envelope.options))]
    if envelope.headers:
        lines += [_title("HEADERS", width), *_value(dict(envelope.headers))]
    if envelope.parent or envelope.root:
        lines.append(_fact("parent", Cell(clean(envelope.parent or "–", 64))))
        lines.append(_fact("root", Cell(clean(envelope.root or "–", 64))))
    return lines


def _value(value: Any) -> Lines:
    return [[Cell(f"   {line}")] for line in figures.value_lines(value)]


def _remembered(row: TaskLine | None, now_ms: int) -> Lines:
    """Return what the list still knew of a task whose record is gone."""
    if row is None:
        return []
    sign = TASK.get(row.state, UNKNOWN)
    lines: Lines = [
        _fact("task", Cell(row.task, "strong")),
        _fact("state", Cell(f"{sign.glyph} {sign.word}", sign.tone)),
        _fact("queue", Cell(row.queue)),
        _fact("worker", Cell(row.worker or "–")),
        _fact("seen", Cell(f"{figures.age(row.changed_ms, now_ms)} ago")),
    ]
    if row.error or row.message:
        lines.append(_fact("error", Cell(": ".join(part for part in (row.error, row.message) if part), "bad")))
    return lines


def plain(lines: Sequence[Sequence[Cell]]) -> list[str]:
    """Return lines of cells as text."""
    return ["".join(cell.text for cell in line).rstrip() for line in lines]
