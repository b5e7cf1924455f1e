"""What the details of one task say, line by line: where it is and why, each of its runs, what was asked, what came of
it. Pure: values in, cells out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from stem.control.why import Explanation
from stem.messages.envelope import Envelope
from stem.messages.status import TaskState, TaskStatus, TimelineEntry
from stem.observe.rows import TaskLine, progress_text
from stem.record import record
from stem.text import clean
from stem_tui import figures
from stem_tui.details import Lines, fact, title
from stem_tui.theme import TASK, UNKNOWN, Cell, event_sign


@record
class TaskAnswer:
    """What the broker answered about one task; `id` is the one it was asked for.

    Attributes:
        problem: why there is no answer, or only part of one; clean.
        body_bytes: the size of its body, None where there is none; `signed`: with a signature.
    """

    id: str
    status: TaskStatus | None = None
    envelope: Envelope | None = None
    explanation: Explanation | None = None
    problem: str = ""
    body_bytes: int | None = None
    signed: bool = False


class Payloads:
    """The long lines of one task, such as its result: to lay out a megabyte of JSON takes longer than a drawing may.

    They are kept from answer to answer, while what they show stays as it is. In another life of the task, which `token`
    tells apart, all is made anew.
    """

    def __init__(self) -> None:
        self.token = 0
        self._made: dict[str, tuple[tuple[int, Any], Lines]] = {}

    def once(self, name: str, value: Any, make: Callable[[], Lines]) -> Lines:
        """Return the lines of a value."""
        kept = self._made.get(name)
        if kept is None or kept[0] != (self.token, value):
            kept = self._made[name] = ((self.token, value), make())
        return kept[1]

    def value(self, name: str, value: Any) -> Lines:
        return self.once(name, value, lambda: [[Cell(f"   {line}")] for line in figures.value_lines(value)])


def task_lines(
    row: TaskLine | None,
    answer: TaskAnswer | None,
    task_id: str,
    now_ms: int,
    width: int,
    *,
    name_of: Callable[[str], str] = clean,
    payloads: Payloads | None = None,
) -> Lines:
    """Return all that is known of a task: what the broker says, or until it has answered, what the list knew.

    Args:
        name_of: a worker's shown name by its id.
        payloads: what was made of answers about this task before.
    """
    payloads = Payloads() if payloads is None else payloads
    name = clean(task_id, 64)
    if answer is None or answer.id != task_id:
        head = f"TASK {name}"
        known = [] if row is None else [fact("task", Cell(row.task, "strong"), Cell(f"  {row.state}", "dim"))]
        return [title(head, width), *known, [Cell("   asking …", "dim")]]
    if answer.status is None:
        words = answer.problem or "The broker has no record of it (any more)."
        return [title(f"TASK {name}", width), [Cell(f"   {words}", "warn")], *_remembered(row, now_ms)]
    status = answer.status
    payloads.token = status.token
    lines: Lines = [title(f"TASK {clean(status.task)}", width), *_facts(status, now_ms, name_of)]
    if answer.problem:
        lines.append(fact("", Cell(answer.problem, "warn")))
    if answer.explanation is not None:
        lines += _why(answer.explanation, width)
    lines += _runs(status, now_ms, width, name_of)
    if status.error is not None:
        lines += [_error_title(status, width), *payloads.once("error", status.error, lambda: _error(status))]
    if status.state is TaskState.SUCCEEDED:
        lines += [title("RESULT", width), *payloads.value("result", status.result)]
    if answer.envelope is not None:
        lines += [title("ARGUMENTS", width), *payloads.value("args", dict(answer.envelope.args))]
    lines += _timeline(status, width, name_of)
    if answer.envelope is not None:
        lines += _request(answer, answer.envelope, payloads, status, width)
    if status.meta:
        lines += [title("META", width), *payloads.value("meta", dict(status.meta))]
    return lines


def _facts(status: TaskStatus, now_ms: int, name_of: Callable[[str], str]) -> Lines:
    sign = TASK.get(status.state.value, UNKNOWN)
    state = [Cell(f"{sign.glyph} {sign.word}", sign.tone)]
    if status.reason:
        state.append(Cell(f"  {clean(status.reason, 300)}", "dim"))
    lines: Lines = [
        fact("state", *state),
        fact("id", Cell(clean(status.id, 64))),
        fact("queue", Cell(clean(status.queue)), Cell(f"  priority {status.priority}", "dim")),
        fact("worker", Cell(name_of(status.worker) if status.worker else "–")),
        fact("try", *_tries(status)),
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
            lines.append(fact(label, Cell(figures.date(at_ms)), Cell(f"  {when}", "dim")))
    if status.started_at_ms and status.finished_at_ms:
        lines.append(fact("took", Cell(figures.span(status.finished_at_ms - status.started_at_ms))))
    if status.progress is not None:
        lines.append(fact("progress", Cell(progress_text(status.progress), "accent")))
    return lines


def _tries(status: TaskStatus) -> list[Cell]:
    """Return which try runs or comes next, or was the last."""
    allowed = None if status.error is None else status.error.max_retries
    of = "" if allowed is None else f" of {allowed + 1}"
    next_one = "  comes next" if status.state in (TaskState.RETRYING, TaskState.SCHEDULED, TaskState.QUEUED) else ""
    counts = f"  starts {status.token}"
    if status.crashes:
        counts += f"  workers lost under it {status.crashes}"
    return [Cell(f"{status.attempt + 1}{of}", "warn" if status.attempt else "text"), Cell(next_one + counts, "dim")]


def _why(explanation: Explanation, width: int) -> Lines:
    lines: Lines = [title("WHY", width), [Cell(f"   {clean(explanation.verdict, 400)}", "strong")]]
    for cause in explanation.causes:
        lines.append([Cell("   · ", "accent"), Cell(clean(cause.text, 400))])
        if cause.fix:
            lines.append([Cell("     → ", "accent"), Cell(clean(cause.fix, 400), "dim")])
    return lines


def _error_title(status: TaskStatus, width: int) -> list[Cell]:
    return title("LAST ERROR" if not status.state.final else "ERROR", width)


def _error(status: TaskStatus) -> Lines:
    assert status.error is not None
    message = figures.text_lines(status.error.message, limit=20)
    lines: Lines = [[Cell(f"   {clean(status.error.type)}: ", "bad"), Cell(message[0], "strong")]]
    lines.extend([Cell(f"   {line}")] for line in message[1:])
    if status.error.traceback:
        lines.append([])
        lines.extend([Cell(f"   {line}", "dim")] for line in figures.text_lines(status.error.traceback.rstrip()))
    return lines


@dataclass(slots=True)
class Run:
    """One run of the handler: from its start to its end, or to now.

    Attributes:
        waited_ms: since the task was enqueued, or since the run before ended.
        how: the step that ended it; empty while it runs.
    """

    start_ms: int
    waited_ms: int
    worker: str
    end_ms: int = 0
    how: str = ""
    detail: str = ""


def runs_of(timeline: Sequence[TimelineEntry]) -> list[Run]:
    """Return the runs that a timeline tells of, oldest first."""
    runs: list[Run] = []
    since_ms = 0
    for entry in timeline:
        if entry.event in ("enqueued", "replayed"):
            since_ms = entry.at_ms
        elif entry.event == "started":
            waited_ms = max(0, entry.at_ms - since_ms) if since_ms else 0
            runs.append(Run(start_ms=entry.at_ms, waited_ms=waited_ms, worker=entry.worker))
        elif entry.event in _ENDS and runs and not runs[-1].how:
            runs[-1].end_ms, runs[-1].how, runs[-1].detail = entry.at_ms, entry.event, entry.detail
            since_ms = entry.at_ms
    return runs


_ENDS: Final = frozenset(
    ("succeeded", "failed", "revoked", "expired", "retried", "crashed", "handed_back", "reclaimed")
)
_BAR: Final = 40


def _runs(status: TaskStatus, now_ms: int, width: int, name_of: Callable[[str], str]) -> Lines:
    """Return a line a run, with where it lies in the life of the task."""
    runs = runs_of(status.timeline)
    if not runs:
        return []
    first = runs[0].start_ms - runs[0].waited_ms
    last = max(now_ms if not status.state.final else 0, *(run.end_ms or now_ms for run in runs))
    cells = _BAR if width >= 120 else 0
    lines: Lines = [title(f"RUNS {len(runs)}", width)]
    if status.token > len(runs):
        lines.append([Cell(f"   It started {status.token} times; what is told of are the last {len(runs)}.", "dim")])
    for number, run in enumerate(runs, max(1, status.token - len(runs) + 1)):
        ran_ms = max(0, (run.end_ms or now_ms) - run.start_ms)
        sign = event_sign(f"task.{run.how}") if run.how else TASK["running"]
        word = run.how.replace("_", " ") or "running"
        lines.append(
            [
                Cell(f"   {number:>2}  ", "head"),
                Cell(f"{figures.clock(run.start_ms)}  ", "dim"),
                Cell(f"{name_of(run.worker)[:20]:<20}  ", "text"),
                Cell(f"waited {figures.span(run.waited_ms):>6}  ", "dim"),
                Cell(f"ran {figures.span(ran_ms):>6}  ", "strong"),
                Cell(_gantt(first, last, run, now_ms, cells), sign.tone),
                Cell(f"{sign.glyph} {word}", sign.tone),
                Cell(f"  {clean(run.detail, 200)}" if run.detail else "", "dim"),
            ]
        )
    return lines


def _gantt(first_ms: int, last_ms: int, run: Run, now_ms: int, cells: int) -> str:
    """Return a bar of where a run lies between two moments; the shortest run shows."""
    if not cells:
        return ""
    whole = max(1, last_ms - first_ms)
    start = min(cells - 1, max(0, (run.start_ms - first_ms) * cells // whole))
    end = min(cells, max(start + 1, -(-((run.end_ms or now_ms) - first_ms) * cells // whole)))
    return "░" * start + "█" * (end - start) + "░" * (cells - end) + "  "


def _timeline(status: TaskStatus, width: int, name_of: Callable[[str], str]) -> Lines:
    if not status.timeline:
        return []
    lines: Lines = [title("TIMELINE", width)]
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


def _request(answer: TaskAnswer, envelope: Envelope, payloads: Payloads, status: TaskStatus, width: int) -> Lines:
    """Return the facts of the envelope as its producer wrote it, beyond the arguments."""
    size = "–" if answer.body_bytes is None else f"{answer.body_bytes:,} bytes"
    lines: Lines = [
        title("ENVELOPE", width),
        fact("body", Cell(size), Cell("  signed" if answer.signed else "  not signed", "dim")),
    ]
    if envelope.produced_at_ms:
        behind = (
            f"  {status.enqueued_at_ms - envelope.produced_at_ms:+,}ms to the broker" if status.enqueued_at_ms else ""
        )
        lines.append(fact("produced", Cell(figures.date(envelope.produced_at_ms)),
                          Cell(f"{behind}, by the producer's clock", "dim")))  # fmt: skip
    for label, length_ms, at_ms in (("due", envelope.delay_ms, envelope.eta_ms),
                                    ("expires", envelope.expires_in_ms, envelope.expires_ms)):  # fmt: skip
        if length_ms is not None:
            lines.append(fact(label, Cell(f"{figures.span(length_ms)} after it was enqueued")))
        elif at_ms is not None:
            lines.append(fact(label, Cell(figures.date(at_ms))))
    if envelope.parent or envelope.root:
        lines.append(fact("parent", Cell(clean(envelope.parent or "–", 64))))
        lines.append(fact("root", Cell(clean(envelope.root or "–", 64))))
    if envelope.options:
        lines += [title("OPTIONS", width), *payloads.value("options", dict(envelope.options))]
    if envelope.headers:
        lines += [title("HEADERS", width), *payloads.value("headers", dict(envelope.headers))]
    return lines


def _remembered(row: TaskLine | None, now_ms: int) -> Lines:
    """Return what the list still knew of a task whose record is gone."""
    if row is None:
        return []
    sign = TASK.get(row.state, UNKNOWN)
    lines: Lines = [
        fact("task", Cell(row.task, "strong")),
        fact("state", Cell(f"{sign.glyph} {sign.word}", sign.tone)),
        fact("queue", Cell(row.queue)),
        fact("worker", Cell(row.worker or "–")),
        fact("seen", Cell(f"{figures.age(row.changed_ms, now_ms)} ago")),
    ]
    if row.error or row.message:
        lines.append(fact("error", Cell(": ".join(part for part in (row.error, row.message) if part), "bad")))
    return lines
