"""What is going to be done, before it is: to which rows, which way, and how much has to be asked first. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Any, Final

from stem.config import format_duration
from stem.observe.rows import QueueLine, TaskLine, WorkerLine
from stem.observe.state import ClusterState
from stem.record import record
from stem.text import clean
from stem_tui.actions import Action
from stem_tui.theme import Cell

SAMPLES: Final = 5
_GONE: Final = ("lost", "stopped")
_BACK: Final = {"pause": "resume", "resume": "pause", "drain": "undrain", "undrain": "drain"}
_UNIT: Final = {
    "queue.purge": "waiting task", "queue.replay": "dead letter", "queue.discard": "dead letter",
    "task.pause": "task name", "task.pause_for": "task name", "failure.pause": "task name",
    "failure.pause_for": "task name",
}  # fmt: skip
_VERB: Final = {
    "worker.stop": "stop", "worker.soft": "stop softly", "worker.kill": "stop at once", "queue.replay": "replay",
    "queue.discard": "discard", "queue.purge": "purge",
}  # fmt: skip
_CONSEQUENCE: Final = {
    "task.revoke": "It never starts again. Where it runs, its handler is asked to stop.",
    "task.terminate": "It never starts again. Where it runs, it is made to stop, half done.",
    "task.retry": "It is due at once: a dead letter starts anew at attempt 0, a waiting one does not wait.",
    "task.discard": "The dead letter, with its arguments and its error, is removed. It cannot be brought back.",
    "worker.stop": "It takes nothing more, finishes what runs (up to its drain timeout) and exits.",
    "worker.soft": "Its handlers are asked to stop; what is not done after the grace time is handed back and starts"
    " again on another worker.",
    "worker.kill": "It exits now. What runs there is handed back and starts again on another worker.",
    "queue.purge": "All that waits here (ready, delayed, retrying, held) becomes revoked and never runs. What runs goes"
    " on. It cannot be brought back.",
    "queue.replay": "Dead letters start anew at attempt 0, all at once. What failed before may fail again.",
    "queue.discard": "The dead letters, with their arguments and errors, are removed. They cannot be brought back.",
}


@record
class Plan:
    """One thing to do, whole.

    Attributes:
        way: of a toggle: `pause resume drain undrain`; else empty.
        for_s: of a pause: how long; None until it is resumed.
        reason: kept with a pause that is set again.
        amounts: of what is done to whole queues: at most so many of each, for so many were agreed to.
    """

    action: Action
    rows: Sequence[Any]
    way: str = ""
    for_s: float | None = None
    reason: str = ""
    amounts: Mapping[str, int] = field(default_factory=dict)

    @property
    def verb(self) -> str:
        return self.way or _VERB.get(self.action.id, self.action.name)


@record
class Reckoned:
    """What a plan would change now.

    Attributes:
        rows: those it can still be done to; `amount` of what, by the plan's unit; `amounts` per queue.
        samples: some of them, in clean words.
        cut: there are more than are done at once.
    """

    rows: Sequence[Any]
    amount: int
    amounts: Mapping[str, int] = field(default_factory=dict)
    samples: Sequence[str] = ()
    cut: bool = False


@record
class Question:
    """What is asked before a change; `word` has to be typed, where it is not empty."""

    title: str
    lines: Sequence[Sequence[Cell]]
    yes: str
    word: str
    command: str = ""


def way_of(action: Action, rows: Sequence[Any], state: ClusterState) -> str:
    """Return which way a toggle goes: back, where all of the rows are that way already."""
    if action.name == "pause-for":
        return "pause"
    if action.pauses:
        match action.scope:
            case "queue":
                there = all(row.paused for row in rows)
            case "worker":
                there = all(row.paused_here for row in rows)
            case _:
                paused = {pause.target for pause in state.pauses if pause.kind == "task"}
                there = all(row.task in paused for row in rows)
        return "resume" if rows and there else "pause"
    if action.id == "worker.drain":
        return "undrain" if rows and all(row.state == "draining" for row in rows) else "drain"
    return ""


def back(way: str) -> str:
    """Return the way that takes this one back."""
    return _BACK[way]


@record
class Before:
    """How it was before a deed: the way that brings it back, and of a pause for how long it went on, and why."""

    way: str
    for_s: float | None = None
    reason: str = ""


def before(plan: Plan, state: ClusterState, now_ms: int) -> Before | None:
    """Return how it was, so that it can be like that again: a pause that another one replaces or a resume ends too.

    None where it was not the same for all: one command cannot bring that back.
    """
    if plan.way not in ("pause", "resume"):
        return Before(way=_BACK.get(plan.way, ""))
    names, kind = targets(plan, state), "task" if plan.action.scope == "failure" else plan.action.scope
    held = {pause.target: (pause.until_ms, pause.reason) for pause in state.pauses if pause.kind == kind}
    were = {held.get(name) for name in names if plan.way == "pause" or name in held}
    if len(were) > 1:
        return None
    was = were.pop() if were else None
    if was is None:
        return Before(way=_BACK[plan.way])
    until_ms, reason = was
    return Before(way="pause", for_s=None if until_ms is None else max(1.0, (until_ms - now_ms) / 1000), reason=reason)


def targets(plan: Plan, state: ClusterState) -> list[str]:
    """Return what the plan is done to, as commands name it: exactly as the broker does."""
    if plan.action.scope == "failure" or (plan.action.pauses and plan.action.scope == "task"):
        return list(dict.fromkeys(row.task for row in plan.rows))
    if plan.action.pauses and plan.action.scope == "worker":
        return [each for row in plan.rows for each in _pausable(row, plan.way, state)]
    return [row.key for row in plan.rows]


def _pausable(row: WorkerLine, way: str, state: ClusterState) -> list[str]:
    held = [pause.target for pause in state.pauses if pause.kind == "worker" and pause.target in (row.key, row.name)]
    if held and way == "resume":
        return held
    # By name for a worker whose name is its own, so that the pause outlives a restart; else by id.
    # Never that of one who is gone: the name is another's by now.
    alive = [each.name for each in state.workers.values() if each.diagnosis not in _GONE]
    its_own = row.diagnosis not in _GONE and alive.count(row.name) == 1 and row.name == clean(row.name)
    return [row.name if its_own else row.key]


def unit(plan: Plan, amount: int) -> str:
    """Return an amount in words: `1 task`, `12,402 waiting tasks`."""
    word = _UNIT.get(plan.action.id, plan.action.scope)
    return f"{amount:,} {word}{'' if amount == 1 else 's'}"


def subject(plan: Plan, amount: int | None = None) -> str:
    """Return what the plan is done to, in words: `queue reports`, `3 tasks`, `8 waiting tasks of queue default`."""
    rows = plan.rows
    if plan.amounts:
        queues = f"queue {clean(rows[0].key, 64)}" if len(rows) == 1 else f"{len(rows)} queues"
        return f"{unit(plan, sum(plan.amounts.values()))} of {queues}"
    names = list(dict.fromkeys(_name(plan, row) for row in rows))
    if len(names) == 1 and amount in (None, 1):
        kind = "task" if plan.action.scope == "failure" else plan.action.scope
        return f"{kind} {names[0]}"
    return unit(plan, len(names) if amount is None else amount)


def _name(plan: Plan, row: Any) -> str:
    if plan.action.scope == "failure" or (plan.action.pauses and isinstance(row, TaskLine)):
        return clean(row.task)
    return row.id if isinstance(row, TaskLine) else clean(row.name)


def described(plan: Plan) -> str:
    """Return the plan in words: `pause queue mail for 10m`."""
    span = "" if plan.for_s is None or plan.way != "pause" else f" for {format_duration(plan.for_s)}"
    return f"{plan.verb} {subject(plan)}{span}"


def consequence(action: Action) -> str:
    """Return what the person who confirms should know."""
    return _CONSEQUENCE.get(action.id, f"{action.help}.")


def tier(plan: Plan, *, many: bool, production: bool) -> int:
    """Return how much is asked: 0 nothing, 1 yes or no, 2 a word to type, 3 with the namespace in it."""
    least = 2 if many else 0
    return max(plan.action.tier or 0, least) + production


def samples(rows: Sequence[Any]) -> list[str]:
    """Name exactly what will be acted on: all of a few, five of many."""
    return [sample(row) for row in rows[:SAMPLES]]


def sample(row: Any) -> str:
    match row:
        case TaskLine():
            return f"{row.task}  {row.id}  queue {row.queue}  ({row.state})"
        case WorkerLine():
            return f"{row.name}  {clean(row.key)}  {row.in_flight} in flight"
        case QueueLine():
            waiting = row.ready + row.delayed + row.retrying + row.held
            return f"{row.name}  {waiting:,} waiting, {row.in_flight:,} in flight, {row.dead:,} dead"
    return str(getattr(row, "task", "") or getattr(row, "name", ""))


def question(
    plan: Plan,
    found: Reckoned,
    tier: int,
    *,
    command: str | None,
    namespace: str,
    before: int | None = None,
    width: int = 70,
) -> Question:
    """Return what to ask before the plan is carried out.

    Args:
        before: how many there were when it was last asked, if it was.
        width: of the lines.
    """
    word = _word(plan, found.amount, tier, namespace)
    lines: list[Sequence[Cell]] = []
    if before is not None:
        lines += [[Cell(f" {before:,} → {found.amount:,}", "warn"), Cell(" since you were asked: confirm again")], []]
    lines += [[Cell(f" {line}", "strong")] for line in found.samples]
    if found.amount > len(found.samples):
        lines.append([Cell(f" and {found.amount - len(found.samples):,} more", "dim")])
    if found.cut:
        more = "There are more tasks than can be looked through: some names may be missing."
        more = more if plan.action.pauses else "There are still more than that: do it again afterwards."
        lines.append([Cell(f" {more}", "warn")])
    lines.append([])
    lines += [[Cell(f" {part}", "dim")] for part in textwrap.wrap(consequence(plan.action), width)]
    lines += [[], *_command_lines(command, width, key="^Y" if word else "Y")]
    yes = plan.verb.capitalize()
    title = f"{yes} {subject(plan, found.amount)}?"
    return Question(title=title, lines=lines, yes=yes if word else f"{yes} (y)", word=word, command=command or "")


def _command_lines(command: str | None, width: int, *, key: str) -> list[Sequence[Cell]]:
    if command is None:
        return [[Cell(" No command line does the same: too many, or a name that is none.", "faint")]]
    # What is shown may be the beginning of it; what is copied is all of it.
    parts = textwrap.wrap(clean(command, 3 * (width - 4)), width - 4, break_on_hyphens=False)
    shown: list[Sequence[Cell]] = [
        [Cell(" $ " if at == 0 else "   ", "key"), Cell(part)] for at, part in enumerate(parts)
    ]
    return [*shown, [Cell(f"   {key}", "key"), Cell(" copies it", "dim")]]


def _word(plan: Plan, amount: int, tier: int, namespace: str) -> str:
    """Return what has to be typed: short enough to type, particular enough to mean it."""
    if tier < 2:
        return ""
    rows = plan.rows
    if plan.amounts and len(rows) == 1:
        word = clean(rows[0].key, 64)
    elif amount != 1 or not rows:
        word = str(amount)
    else:
        word = rows[0].id[-8:] if isinstance(rows[0], TaskLine) and not plan.action.pauses else _name(plan, rows[0])
    return f"{namespace} {word}" if tier > 2 else word
