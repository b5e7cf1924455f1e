"""Doing what a key asks for: send it, wait for the answers, and say line by line who answered what. No widget here."""

from __future__ import annotations

import textwrap
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from stem.contracts import Broker
from stem.control.answer import CommandItem, CommandResult
from stem.control.controller import Controller
from stem.observe.rows import QueueLine, TaskLine, WorkerLine
from stem.observe.state import ClusterState
from stem.text import clean
from stem_tui.actions import Action
from stem_tui.theme import Cell

Verdict = Literal["ok", "part", "failed"]
ASK_S: Final = 3.0
STOP_S: Final = 6.0
BATCH: Final = 500
_SIGN: Final = {"ok": Cell("✓", "ok"), "part": Cell("!", "warn"), "failed": Cell("✖", "bad")}


@dataclass(frozen=True, slots=True)
class Undo:
    """What takes a change back: the action, its rows, and which way it has to go."""

    action_id: str
    rows: Sequence[Any]
    way: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What came of it.

    Attributes:
        verdict: `ok` when everybody who had to has confirmed it, `part` when somebody has not.
        lines: one per target and worker, for the reply panel.
        undo: what takes it back.
    """

    verdict: Verdict
    headline: str
    lines: Sequence[Sequence[Cell]] = ()
    undo: Undo | None = None

    @property
    def sign(self) -> Cell:
        return _SIGN[self.verdict]


@dataclass(frozen=True, slots=True)
class Office:
    """What it takes to send something."""

    broker: Broker
    controller: Controller
    state: ClusterState


@dataclass(slots=True)
class _Sum:
    """Several commands (one per pause state or batch) as one answer."""

    expected: int = 0
    applied: int = 0
    failed: int = 0
    quiet: int = 0
    lines: list[Sequence[Cell]] = field(default_factory=list)
    problems: int = 0


def target_word(action: Action, rows: Sequence[Any]) -> str:
    """Return what the action acts on, in words: `queue reports`, `3 tasks`."""
    if len(rows) == 1:
        row = rows[0]
        return f"{action.scope} {row.id if isinstance(row, TaskLine) else row.name}"
    return f"{len(rows)} {action.scope}s"


def verb(action: Action, rows: Sequence[Any]) -> str:
    """Return what will happen: of a toggle, which way it goes."""
    match action.id:
        case "queue.pause":
            return "resume" if rows and all(row.paused for row in rows) else "pause"
        case "worker.pause":
            return "resume" if rows and all(row.paused_here for row in rows) else "pause"
        case "worker.stop":
            return "stop"
        case "worker.kill":
            return "stop at once"
    return action.id.partition(".")[2]


def consequence(action: Action) -> str:
    """Return what the person who confirms should know."""
    return {
        "task.revoke": "It never starts again. Where it runs, its handler is asked to stop.",
        "task.terminate": "It never starts again. Where it runs, it is made to stop, half done.",
        "task.retry": "It is due at once: a dead letter starts anew at attempt 0, a waiting one does not wait.",
        "worker.stop": "It takes nothing more, finishes what runs (up to its drain timeout) and exits.",
        "worker.kill": "It exits now. What runs there is handed back and starts again on another worker.",
    }.get(action.id, action.help)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked before a change; `word` has to be typed, where it is not empty."""

    title: str
    lines: Sequence[Sequence[Cell]]
    yes: str
    word: str


def question(action: Action, rows: Sequence[Any]) -> Question | None:
    """Return what to ask before this is done to these rows; None where it can be taken back by a key."""
    tier = action.tier or 0
    if len(rows) > 1:
        tier = 2
    if tier == 0:
        return None
    way = verb(action, rows).capitalize()
    lines: list[Sequence[Cell]] = [[Cell(f" {line}", "strong")] for line in _subjects(rows)]
    lines.append([])
    lines.extend([Cell(f" {part}", "dim")] for part in textwrap.wrap(consequence(action), 66))
    word = ""
    if tier == 2:
        word = str(len(rows)) if len(rows) > 1 else _word(rows[0])
    yes = way if word else f"{way} (y)"
    return Question(title=f"{way} {target_word(action, rows)}?", lines=lines, yes=yes, word=word)


def _subjects(rows: Sequence[Any]) -> list[str]:
    """Name exactly what will be acted on: all of a few, five of many."""
    words = []
    for row in rows[:5]:
        if isinstance(row, TaskLine):
            words.append(f"{row.task}  {row.id}  queue {row.queue}  ({row.state})")
        elif isinstance(row, WorkerLine):
            words.append(f"{row.name}  {clean(row.key)}  {row.in_flight} in flight")
        else:
            words.append(str(row.name))
    return words if len(rows) <= 5 else [*words, f"and {len(rows) - 5} more"]


def _word(row: Any) -> str:
    """Return what has to be typed for one row: short enough to type, particular enough to mean it."""
    return row.id[-8:] if isinstance(row, TaskLine) else str(row.name)


async def carry_out(action: Action, rows: Sequence[Any], office: Office, way: str = "") -> Receipt:
    """Do it and return what came of it.

    Args:
        way: of a toggle: `pause` or `resume`; else the rows say which.

    Raises:
        StemError: it could not be sent, or was refused before it was.
    """
    return await _DEEDS[action.id](action, rows, office, way or verb(action, rows))


# ------------------------------------------------------------------------------------------------------------- pausing


async def _pause_queue(action: Action, rows: Sequence[QueueLine], office: Office, way: str) -> Receipt:
    call = office.controller.pause if way == "pause" else office.controller.resume
    result = await call("queue", [row.key for row in rows], wait_s=ASK_S)
    live = [row for row in office.state.workers.values() if row.diagnosis not in ("lost", "stopped")]
    done = f"{target_word(action, rows)} {'paused' if way == 'pause' else 'resumed'}"
    return _receipt(done, result, live, undo=_back("queue.pause", rows, way))


async def _pause_worker(action: Action, rows: Sequence[WorkerLine], office: Office, way: str) -> Receipt:
    call = office.controller.pause if way == "pause" else office.controller.resume
    # By name for a worker whose name is its own, so that the pause outlives a restart; else by id.
    names = [row.name for row in office.state.workers.values() if row.diagnosis not in ("lost", "stopped")]
    targets = [row.name if names.count(row.name) == 1 and not row.paused_here else row.key for row in rows]
    if way == "resume":
        targets = [each for row in rows for each in _paused_as(row, office)]
    result = await call("worker", targets, wait_s=ASK_S)
    done = f"{target_word(action, rows)} {'paused' if way == 'pause' else 'resumed'}"
    return _receipt(done, result, rows, undo=_back("worker.pause", rows, way))


def _back(action_id: str, rows: Sequence[Any], way: str) -> Undo:
    return Undo(action_id, rows, "resume" if way == "pause" else "pause")


def _paused_as(row: WorkerLine, office: Office) -> list[str]:
    held = [p.target for p in office.state.pauses if p.kind == "worker" and p.target in (row.key, row.name)]
    return held or [row.key]


# ------------------------------------------------------------------------------------------------------------- workers


async def _stop_worker(action: Action, rows: Sequence[WorkerLine], office: Office, way: str) -> Receipt:
    mode: Literal["warm", "hard"] = "hard" if action.id == "worker.kill" else "warm"
    # A warm stop may take as long as its longest task: the answer is that it has begun. Goodbye shows in the list.
    wait_s = STOP_S if mode == "hard" else None
    result = await office.controller.shutdown([row.key for row in rows], mode=mode, wait_s=wait_s)
    done = f"{target_word(action, rows)} {'stopped' if mode == 'hard' else 'is stopping'}"
    return _receipt(done, result, rows)


# --------------------------------------------------------------------------------------------------------------- tasks


async def _revoke(action: Action, rows: Sequence[TaskLine], office: Office, way: str) -> Receipt:
    terminate = action.id == "task.terminate"
    total, ids = _Sum(), [row.key for row in rows]
    for start in range(0, len(ids), BATCH):
        batch = ids[start : start + BATCH]
        result = await office.controller.revoke(batch, terminate=terminate, wait_s=ASK_S)
        _add(total, result, ())
    return _concluded(f"{target_word(action, rows)} revoked", total)


async def _retry(action: Action, rows: Sequence[TaskLine], office: Office, way: str) -> Receipt:
    total, ids = _Sum(), [row.key for row in rows]
    answers: dict[str, str] = {}
    async with office.controller.recorded("retry", ids) as tally:
        for start in range(0, len(ids), BATCH):
            part = await office.broker.retry_now(ids[start : start + BATCH])
            tally.add_all(part)
            answers |= part
    for task_id, answer in answers.items():
        good = answer == "queued"
        total.problems += not good
        words = {
            "queued": "is queued now",
            "already": "waits or runs already",
            "final": "is final: it has no dead letter to replay",
            "unknown": "is not known (any more)",
        }.get(answer, answer)
        total.lines.append(_line("ok" if good else "part", clean(task_id, 64), words))
    return _concluded(f"{target_word(action, rows)} queued again", total)


# ------------------------------------------------------------------------------------------------------------- answers


def _line(verdict: Verdict, who: str, words: str) -> Sequence[Cell]:
    return [Cell(" "), _SIGN[verdict], Cell(f" {who}  ", "strong"), Cell(words)]


def _receipt(
    done: str,
    result: CommandResult,
    concerned: Sequence[WorkerLine],
    undo: Undo | None = None,
) -> Receipt:
    total = _Sum()
    _add(total, result, concerned)
    return _concluded(done, total, undo=undo)


def _add(total: _Sum, result: CommandResult, concerned: Sequence[WorkerLine]) -> None:
    """Turn a result into lines: first the targets, then each worker's answer, then what nobody had said."""
    total.expected += result.expected
    total.applied += result.applied
    total.failed += result.failed
    waited_for = [silent for silent in result.silent if silent.waited_for]
    total.quiet += len(waited_for)
    for item in result.items:
        total.lines.append(_item_line(item))
        total.problems += bool(item.error) or item.outcome in ("stored",)
    refused = {item.worker for item in result.items if item.outcome == "refused"}
    mute = {silent.id for silent in result.silent}
    answered = [row for row in concerned if row.key not in refused and row.key not in mute]
    if len(answered) == result.applied:
        total.lines.extend(_line("ok", row.name, "confirmed") for row in answered)
    elif result.applied:
        total.lines.append(_line("ok", f"{result.applied} of {result.expected} workers", "confirmed"))
    for silent in result.silent:
        if silent.waited_for:
            text = f"no answer in {result.elapsed_ms / 1000:.1f}s ({clean(silent.diagnosis, 20)}); stored, it will obey"
            total.lines.append(_line("part", clean(silent.name), text))
        else:
            total.lines.append([Cell(f"   {clean(silent.name)}  was lost before", "dim")])
    for target in result.unmatched:
        total.problems += 1
        total.lines.append(_line("part", clean(target, 80), "nothing of this name is known"))
    total.lines.extend([Cell(f"   {clean(warning, 300)}", "dim")] for warning in result.warnings)


def _item_line(item: CommandItem) -> Sequence[Cell]:
    if item.error:
        return _line("failed", clean(item.worker or item.target, 80), clean(item.error, 300))
    words = clean(item.outcome, 80).replace("_", " ")
    if not item.changed and item.outcome != "already":
        words += " (was so before)"
    if item.worker:
        words += f"  on {clean(item.worker, 80)}"
    if item.stage and item.stage != "effect":
        words += f"  ({clean(item.stage, 20)})"
    return _line("ok" if item.stage in ("applied", "effect") else "part", clean(item.target, 80), words)


def _concluded(done: str, total: _Sum, undo: Undo | None = None) -> Receipt:
    if total.quiet or total.failed:
        parts = [f"{total.applied} of {total.expected} workers confirmed"]
        parts += [f"{total.quiet} did not answer"] if total.quiet else []
        parts += [f"{total.failed} refused"] if total.failed else []
        verdict: Verdict = "part" if total.applied or total.quiet else "failed"
        return Receipt(verdict=verdict, headline=f"{done}: {', '.join(parts)}", lines=total.lines, undo=undo)
    if total.problems:
        return Receipt(verdict="part", headline=f"{done}, not all of it: see the answers", lines=total.lines, undo=undo)
    who = f" · {total.applied} worker{'s' if total.applied != 1 else ''} confirmed" if total.expected else ""
    return Receipt(verdict="ok", headline=done + who, lines=total.lines, undo=undo)


_DEEDS: Final[dict[str, Callable[[Action, Sequence[Any], Office, str], Awaitable[Receipt]]]] = {
    "queue.pause": _pause_queue,
    "worker.pause": _pause_worker,
    "worker.stop": _stop_worker,
    "worker.kill": _stop_worker,
    "task.revoke": _revoke,
    "task.terminate": _revoke,
    "task.retry": _retry,
}
