"""Carrying out a plan: send it, wait for the answers, and say line by line who answered what. No widget here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from stem.contracts import Broker
from stem.control.answer import CommandItem, CommandResult, Confirmation, Silent
from stem.control.audit import Tally
from stem.control.controller import Controller
from stem.control.dead import discard
from stem.observe.rows import WorkerLine
from stem.observe.state import ClusterState
from stem.record import record
from stem.text import clean
from stem_tui import plans
from stem_tui.plans import Plan
from stem_tui.theme import Cell

Verdict = Literal["ok", "part", "failed"]
ASK_S: Final = 3.0
STOP_S: Final = 6.0
BATCH: Final = 500
LINES: Final = 400
"""Targets that are named one by one; of more, those with a problem first and the rest by number."""
_SIGN: Final = {"ok": Cell("✓", "ok"), "part": Cell("!", "warn"), "failed": Cell("✖", "bad")}
_MODES: Final[Mapping[str, Literal["warm", "soft", "hard"]]] = {
    "worker.stop": "warm",
    "worker.soft": "soft",
    "worker.kill": "hard",
}
_ANSWERS: Final = {
    "queued": "is queued now",
    "already": "waits or runs already",
    "final": "is final: it has no dead letter to replay",
    "unknown": "is not known (any more)",
    "discarded": "is removed for good",
    "not-dead": "is no dead letter (any more)",
    "duplicate": "stays dead: another unfinished task has its unique key",
}
_DONE: Final = {
    "pause": "paused", "resume": "resumed", "drain": "drained", "undrain": "takes work again", "revoke": "revoked",
    "terminate": "terminated", "retry": "queued again", "replay": "queued again", "discard": "discarded",
    "purge": "purged", "stop": "is stopping", "stop softly": "is stopping", "stop at once": "stopped",
}  # fmt: skip

CellLine = Sequence[Cell]


@record
class Receipt:
    """What came of it.

    Attributes:
        verdict: `ok` when everybody who had to has confirmed it, `part` when somebody has not.
        lines: one per target and worker, for the reply panel.
        undo: what takes it back.
        command: the stemctl command that does the same.
    """

    verdict: Verdict
    headline: str
    lines: Sequence[CellLine] = ()
    undo: Plan | None = None
    command: str = ""

    @property
    def sign(self) -> Cell:
        return _SIGN[self.verdict]


@dataclass(frozen=True, slots=True)
class Office:
    """What it takes to send something; a dashboard that only looks has none."""

    broker: Broker
    controller: Controller
    state: ClusterState


@dataclass(slots=True)
class _Sum:
    """Several commands (one per batch) as one answer.

    Attributes:
        waited_out: the effect was waited for, and somebody who took the command had not reached it by the deadline.
        unreached: how many these are, at most in one of the commands; `at_it` are those known by their id.
        idle: lines of targets to which nothing was done.
    """

    elapsed_ms: float = 0.0
    waited_out: bool = False
    unreached: int = 0
    idle: int = 0
    at_it: set[str] = field(default_factory=set)
    lines: list[tuple[Verdict, CellLine]] = field(default_factory=list)
    workers: dict[str, Confirmation] = field(default_factory=dict)
    silent: dict[str, Silent] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    changed: set[str] = field(default_factory=set)

    @property
    def problems(self) -> int:
        return sum(verdict != "ok" for verdict, _ in self.lines)


async def carry_out(plan: Plan, office: Office) -> Receipt:
    """Do it and return what came of it.

    Raises:
        StemError: it could not be sent, or was refused before it was.
    """
    return await (_pause if plan.action.pauses else _DEEDS[plan.action.id])(plan, office)


def known(action_id: str) -> bool:
    """Say whether somebody carries this action out."""
    return action_id in _DEEDS or action_id.partition(".")[2] in ("pause", "pause_for")


# ------------------------------------------------------------------------------------- what workers hear of and confirm


async def _pause(plan: Plan, office: Office) -> Receipt:
    targets = plans.targets(plan, office.state)
    # Found before it is sent: a poll in between would show no pause any more by whose name a worker was resumed.
    each = [(row, set(plans.targets(replace(plan, rows=[row]), office.state))) for row in plan.rows]
    scope = plan.action.scope
    kind: Literal["queue", "task", "worker"] = (
        "queue" if scope == "queue" else "worker" if scope == "worker" else "task"
    )
    if plan.way == "pause":
        result = await office.controller.pause(kind, targets, for_s=plan.for_s, reason=plan.reason, wait_s=ASK_S)
    else:
        result = await office.controller.resume(kind, targets, wait_s=ASK_S)
    total = _Sum()
    _add(total, result)
    return _concluded(plan, total, undo=_undo(plan, each, total.changed))


def _undo(plan: Plan, each: Sequence[tuple[Any, set[str]]], changed: set[str]) -> Plan | None:
    """Return what takes back what this has changed, and nothing that was so before; `each` row with its targets."""
    rows = [row for row, targets in each if changed & targets]
    if not rows:
        return None
    return replace(plan, rows=rows, way=plans.back(plan.way), for_s=None, reason="")


async def _drain(plan: Plan, office: Office) -> Receipt:
    ids = [row.key for row in plan.rows]
    call = office.controller.drain if plan.way == "drain" else office.controller.undrain
    # That nothing is in flight any more may take as long as the longest task: the answer is that no more is taken.
    result = await call(ids)
    total = _Sum()
    _add(total, result)
    changed = {item.worker for item in result.items if item.changed}
    rows = [row for row in plan.rows if row.key in changed]
    return _concluded(plan, total, undo=replace(plan, rows=rows, way=plans.back(plan.way)) if rows else None)


async def _stop(plan: Plan, office: Office) -> Receipt:
    rows: Sequence[WorkerLine] = plan.rows
    mode = _MODES[plan.action.id]
    # A warm stop may take as long as its longest task: the answer is that it has begun. Goodbye shows in the list.
    wait_s = STOP_S if mode == "hard" else None
    result = await office.controller.shutdown([row.key for row in rows], mode=mode, wait_s=wait_s)
    total = _Sum()
    _add(total, result)
    return _concluded(plan, total)


async def _revoke(plan: Plan, office: Office) -> Receipt:
    terminate = plan.action.id == "task.terminate"
    total, ids = _Sum(), [row.key for row in plan.rows]
    for start in range(0, len(ids), BATCH):
        _add(total, await office.controller.revoke(ids[start : start + BATCH], terminate=terminate, wait_s=ASK_S))
    return _concluded(plan, total)


# ------------------------------------------------------------------------------------------- what the broker does alone


async def _retry(plan: Plan, office: Office) -> Receipt:
    total, ids = _Sum(), [row.key for row in plan.rows]
    async with office.controller.recorded("retry", ids) as tally:
        for start in range(0, len(ids), BATCH):
            _note_answers(total, tally, await office.broker.retry_now(ids[start : start + BATCH]))
    return _concluded(plan, total, notes=tally.warnings)


async def _discard(plan: Plan, office: Office) -> Receipt:
    """Remove dead letters by id."""
    total, ids = _Sum(), [row.key for row in plan.rows]
    async with office.controller.recorded("discard", ids) as tally:
        for start in range(0, len(ids), BATCH):
            async for answers in discard(office.broker, ids[start : start + BATCH]):
                _note_answers(total, tally, answers)
    return _concluded(plan, total, notes=tally.warnings)


async def _purge(plan: Plan, office: Office) -> Receipt:
    """Remove what waits (or the dead letters), of each queue at most as many as were agreed to."""
    what: Literal["waiting", "dead"] = "waiting" if plan.action.id == "queue.purge" else "dead"
    verb, counted = ("purge", "purged") if what == "waiting" else ("discard", "discarded")
    total, queues = _Sum(), list(plan.amounts)
    async with office.controller.recorded(verb, queues, kind="queue") as tally:
        for queue, agreed in plan.amounts.items():
            left = agreed
            while left > 0 and (removed := await office.broker.purge(queue, what, limit=min(BATCH, left))):
                left -= removed
                tally.add(counted, removed)
            words = f"{agreed - left:,} removed" + (f"; {left:,} were gone meanwhile" if left else "")
            total.lines.append(("ok", _line("ok", clean(queue, 64), words)))
    return _concluded(replace(plan, amounts={"": tally.counts[counted]}), total, notes=tally.warnings)


async def _replay(plan: Plan, office: Office) -> Receipt:
    """Give the dead letters of whole queues a new life. All are read before one is touched: paging would skip some."""
    total, found = _Sum(), list[str]()
    for queue, agreed in plan.amounts.items():
        ids: dict[str, None] = {}
        cursor: str | None = None
        while len(ids) < agreed:
            page = await office.broker.census.tasks("dead", queue=queue, cursor=cursor, limit=BATCH)
            ids.update(dict.fromkeys(status.id for status in page.items))
            cursor = page.next
            if cursor is None:
                break
        found += list(ids)[:agreed]
    option = " ".join(f"--queue {queue}" for queue in plan.amounts)
    async with office.controller.recorded("replay", found, option=option) as tally:
        for start in range(0, len(found), BATCH):
            _note_answers(total, tally, await office.broker.replay(found[start : start + BATCH]))
    return _concluded(replace(plan, amounts={"": len(found)}), total, notes=tally.warnings)


def _note_answers(total: _Sum, tally: Tally, answers: Mapping[str, str]) -> None:
    tally.add_all(answers)
    for task_id, answer in answers.items():
        verdict: Verdict = "ok" if answer in ("queued", "discarded") else "part"
        total.idle += verdict != "ok"
        total.lines.append((verdict, _line(verdict, clean(task_id, 64), _ANSWERS.get(answer, clean(answer, 60)))))


_DEEDS: Final[dict[str, Callable[[Plan, Office], Awaitable[Receipt]]]] = {
    "worker.drain": _drain,
    "worker.stop": _stop,
    "worker.soft": _stop,
    "worker.kill": _stop,
    "task.revoke": _revoke,
    "task.terminate": _revoke,
    "task.retry": _retry,
    "task.discard": _discard,
    "queue.purge": _purge,
    "queue.discard": _purge,
    "queue.replay": _replay,
}


# ------------------------------------------------------------------------------------------------------------- answers


def _line(verdict: Verdict, who: str, words: str) -> CellLine:
    return [Cell(" "), _SIGN[verdict], Cell(f" {who}  ", "strong"), Cell(words)]


def _add(total: _Sum, result: CommandResult) -> None:
    """Take one result: what became of each target, and what each worker said."""
    total.elapsed_ms = max(total.elapsed_ms, result.elapsed_ms)
    quiet = sum(silent.waited_for for silent in result.silent)
    if result.waited_out and (unreached := result.expected - result.applied - result.failed - quiet) > 0:
        total.waited_out, total.unreached = True, max(total.unreached, unreached)
    for item in result.items:
        early = result.waited_out and item.stage == "applied"
        if early and item.worker:
            total.at_it.add(item.worker)
        if item.outcome != "refused":  # those are said by the workers, below
            total.lines.append(_item_line(item, early=early))
        if item.changed:
            total.changed.add(item.target)
    for answer in result.workers:
        before = total.workers.get(answer.id)
        total.workers[answer.id] = answer if before is None or not before.error else before
    total.silent |= {silent.id: silent for silent in result.silent}
    for target in result.unmatched:
        if not any(item.target == target for item in result.items):
            total.idle += 1
            total.lines.append(("part", _line("part", clean(target, 80), "nothing of this name is known")))
    total.notes += [clean(warning, 300) for warning in result.warnings]


def _item_line(item: CommandItem, *, early: bool) -> tuple[Verdict, CellLine]:
    """Say what became of one target; `early`: the effect was waited for and is still to come."""
    target = clean(item.target, 80)
    if item.error:
        return "failed", _line("failed", target, clean(item.error, 300))
    words = clean(item.outcome, 80).replace("_", " ")
    if not item.changed and item.outcome != "already":
        words += " (was so before)"
    if item.worker and item.worker != item.target:
        words += f"  on {clean(item.worker, 80)}"
    if item.stage and item.stage != "effect":
        words += f"  ({clean(item.stage, 20)})"
    if early:
        words += ", not over yet"
    good = item.stage in ("applied", "effect") and item.outcome != "stored" and not early
    verdict: Verdict = "ok" if good else "part"
    return verdict, _line(verdict, target, words)


def _worker_lines(total: _Sum) -> list[CellLine]:
    """Say of each worker that had to answer what it answered: confirmed, refused and why, or silent and how it is."""
    lines: list[CellLine] = []
    for silent in total.silent.values():
        if silent.waited_for:
            words = f"no answer in {total.elapsed_ms / 1000:.1f}s ({clean(silent.diagnosis, 20)}); stored, it will obey"
            lines.append(_line("part", clean(silent.name), words))
    refused = [answer for answer in total.workers.values() if answer.error]
    lines += [_line("failed", clean(each.name), f"refused: {clean(each.error, 300)}") for each in refused]
    for answer in total.workers.values():
        if not answer.error and answer.id not in total.silent:
            how = f"confirmed in {answer.rtt_ms:.0f}ms" if answer.stage else "said goodbye"
            early = answer.id in total.at_it
            words = how + ", but it is not over there yet" if early else how
            lines.append(_line("part" if early else "ok", clean(answer.name), words))
    lost = [silent for silent in total.silent.values() if not silent.waited_for]
    lines += [[Cell(f"   {clean(silent.name)}  was lost before", "dim")] for silent in lost]
    return lines


def _lines(total: _Sum) -> list[CellLine]:
    """Return the whole panel: what went wrong first, where it is long."""
    targets = total.lines
    if len(targets) > LINES:
        targets = sorted(targets, key=lambda each: each[0] == "ok")
    lines = [line for _, line in targets[:LINES]]
    rest = Counter(verdict for verdict, _ in targets[LINES:])
    lines += [[Cell(" "), _SIGN[verdict], Cell(f" {count:,} more like these")] for verdict, count in rest.items()]
    workers = _worker_lines(total)
    if workers:
        lines += [[], [Cell(" WORKERS", "title")], *workers]
    return lines + [[Cell(f"   {note}", "dim")] for note in total.notes[:20]]


def _concluded(plan: Plan, total: _Sum, undo: Plan | None = None, notes: Sequence[str] = ()) -> Receipt:
    total.notes += [clean(note, 300) for note in notes]
    done = f"{plans.subject(plan)} {_DONE[plan.verb]}"
    lines = _lines(total)
    quiet = sum(silent.waited_for for silent in total.silent.values())
    refused = sum(bool(answer.error) for answer in total.workers.values())
    confirmed = sum(not answer.error and answer.id not in total.silent for answer in total.workers.values())
    if quiet or refused:
        parts = [f"{confirmed} of {confirmed + quiet + refused} workers confirmed"]
        parts += [f"{quiet} did not answer"] if quiet else []
        parts += [f"{refused} refused"] if refused else []
        parts += [f"at {total.unreached} it is not over yet"] if total.waited_out else []
        verdict: Verdict = "part" if confirmed or quiet else "failed"
        return Receipt(verdict=verdict, headline=f"{done}: {', '.join(parts)}", lines=lines, undo=undo)
    if total.waited_out:
        where = f"{total.unreached} worker{'s' if total.unreached != 1 else ''}"
        words = f"not over yet at {where} after {total.elapsed_ms / 1000:.1f}s; it goes on by itself"
        return Receipt(verdict="part", headline=f"{plan.verb} {plans.subject(plan)}: {words}", lines=lines, undo=undo)
    if total.problems:
        if total.idle == len(total.lines):
            words = f"nothing was done: {plan.verb} {plans.subject(plan)}: see the answers"
            return Receipt(verdict="failed", headline=words, lines=lines, undo=undo)
        share = f"{len(total.lines) - total.idle:,} of {len(total.lines):,}" if total.idle else "not all of it"
        return Receipt(verdict="part", headline=f"{done}, {share}: see the answers", lines=lines, undo=undo)
    who = f" · {confirmed} worker{'s' if confirmed != 1 else ''} confirmed" if confirmed else ""
    return Receipt(verdict="ok", headline=done + who, lines=lines, undo=undo)
