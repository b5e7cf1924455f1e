"""From what workers answered to what an operator reads: one item per target. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from stem.contracts import ChangeItem, Seen
from stem.control.answer import Answer, Answers, CommandItem, Confirmation, Pong
from stem.control.collect import APPLIED, EFFECT, Party, Request
from stem.control.diagnose import diagnose
from stem.messages.command import Reply
from stem.messages.heartbeat import STATES
from stem.messages.status import TaskState, TaskStatus


def complaint(reply: Reply) -> str:
    """Return why a worker refused, in one line; untrusted text."""
    return f"{reply.error_code or 'failed'}: {reply.error_message}" if reply.error_message else reply.error_code


def pong(party: Party) -> Pong:
    """Return how a worker answered a ping; its answer is fresher than its heartbeat, so it decides the diagnosis."""
    beat, data = party.seen.heartbeat, next(iter(party.replies.values())).data
    state = data.get("state")
    fresh = replace(
        beat,
        state=state if isinstance(state, str) and state in STATES else beat.state,
        loop_age_ms=_count(data.get("loop_age_ms"), beat.loop_age_ms),
        in_flight=_count(data.get("in_flight"), beat.in_flight),
        concurrency=_count(data.get("concurrency"), beat.concurrency),
    )
    seen = replace(party.seen, heartbeat=fresh)
    return Pong(
        id=party.id,
        name=party.name,
        rtt_ms=round(party.rtt_ms, 2),
        diagnosis=diagnose(seen, answered=True),
        ok=party.refusal is None,
        error_code="" if party.refusal is None else party.refusal.error_code or "failed",
    )


def _count(value: object, default: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else default


async def answers(request: Request, unmatched: Sequence[str]) -> Answers:
    """Return the answers to a question, in the order of the workers' names."""
    silent = await request.silent()
    replied = [party for party in request.parties if party.answered]
    return Answers(
        expected=sum(party.expected for party in request.parties),
        replied=len(replied),
        silent=silent,
        elapsed_ms=request.elapsed_ms,
        workers=[_answer(party) for party in replied],
        unmatched=unmatched,
    )


def _answer(party: Party) -> Answer:
    refusal = party.refusal if party.rank < APPLIED else None
    if refusal is not None:
        return Answer(
            id=party.id,
            name=party.name,
            ok=False,
            error_code=refusal.error_code or "failed",
            error_message=refusal.error_message,
            rtt_ms=round(party.rtt_ms, 2),
        )
    reply = party.replies.get("applied") or next(iter(party.replies.values()))
    return Answer(id=party.id, name=party.name, ok=True, data=reply.data, rtt_ms=round(party.rtt_ms, 2))


def confirmation(party: Party) -> Confirmation:
    """Return how a worker took a command."""
    error = "" if party.refusal is None else complaint(party.refusal)
    return Confirmation(id=party.id, name=party.name, stage=party.stage, error=error, rtt_ms=round(party.rtt_ms, 2))


def change_item(item: ChangeItem, *, stage: str, error: str = "") -> CommandItem:
    """Return one target of a change with the stage that the workers concerned have reached."""
    return CommandItem(
        target=item.target, worker=item.worker, stage=stage, changed=item.changed, outcome=item.outcome, error=error
    )


def refusals(target: str, concerned: Sequence[Party]) -> list[CommandItem]:
    """Return one item for each worker that said no."""
    return [
        CommandItem(
            target=target, worker=party.id, stage=party.stage, outcome="refused", error=complaint(party.refusal)
        )
        for party in concerned
        if party.refusal is not None
    ]


def holds_none(party: Party) -> bool:
    """Say whether a worker said that none of the tasks revoked runs there: there is no effect to wait for."""
    applied = party.replies.get("applied")
    return applied is not None and applied.ok and applied.data.get("held") == []


def disowns(party: Party, task_id: str) -> bool:
    """Say whether a worker said that this task does not run there (any more)."""
    held = party.replies["applied"].data.get("held") if "applied" in party.replies else None
    return isinstance(held, list) and task_id not in held


def revoke_items(request: Request, ended: Mapping[str, TaskStatus]) -> tuple[list[CommandItem], list[str]]:
    """Return the items of a revoke, and warnings.

    Args:
        ended: final statuses of tasks whose worker can no longer say how they ended.
    """
    items: list[CommandItem] = []
    warnings: list[str] = []
    runners = {party.id: party for party in request.parties}
    for item in request.issued.items:
        if item.outcome == "running":
            party = runners.get(item.worker)
            items.append(_of_running(item, party, ended.get(item.target)))
            if party is None or (party.seen.lost and not party.answered):
                warnings.append(
                    f"{item.target}: its worker {item.worker} is lost; it is revoked when its lease runs out"
                )
        elif item.outcome == "stored":
            items.append(change_item(item, stage="applied"))
            warnings.append(f"{item.target}: no such task; it will be revoked if it is enqueued within a day")
        elif item.outcome == "unreadable":
            error = "what stands under its id cannot be read: `stemctl doctor` names such keys"
            items.append(change_item(item, stage="", error=error))
        elif item.outcome == "final" and item.state != TaskState.REVOKED:
            items.append(change_item(item, stage="", error=f"it had ended before: {item.state or 'final'}"))
        else:
            items.append(change_item(item, stage="effect"))
    return items, warnings


def _of_running(item: ChangeItem, party: Party | None, ended: TaskStatus | None) -> CommandItem:
    if ended is not None:
        return replace(change_item(item, stage="effect"), outcome=ended.state.value)
    if party is None or party.rank < 0:
        return change_item(item, stage="accepted", error=complaint(party.refusal) if party and party.refusal else "")
    if party.refusal is not None:
        return change_item(item, stage=party.stage, error=complaint(party.refusal))
    effect = party.replies.get("effect")
    if effect is None or party.rank < EFFECT:
        return change_item(item, stage=party.stage)
    how = effect.data.get("ended")
    how = how.get(item.target) if isinstance(how, Mapping) else None
    return replace(change_item(item, stage="effect"), outcome=how if isinstance(how, str) else "ended")


def foreseen(task_id: str, status: TaskStatus | None) -> CommandItem:
    """Return what a revoke would do to one task."""
    if status is None:
        return CommandItem(target=task_id, outcome="stored", changed=True)
    if status.state is TaskState.REVOKED:
        return CommandItem(target=task_id, outcome="already")
    if status.state.final:
        return CommandItem(target=task_id, outcome="final", error=f"it had ended before: {status.state.value}")
    outcome = "running" if status.state is TaskState.RUNNING else "revoked"
    return CommandItem(target=task_id, worker=status.worker or "", outcome=outcome, changed=True)


def steer_items(request: Request, there: Sequence[Seen]) -> list[CommandItem]:
    """Return the items of a drain, undrain or shutdown: the worker's name is the target."""
    names = {seen.heartbeat.id: seen.heartbeat.name for seen in there}
    by_id = {party.id: party for party in request.parties}
    items = []
    for item in request.issued.items:
        party = by_id.get(item.target)
        error = complaint(party.refusal) if party is not None and party.refusal is not None else ""
        # One that said goodbye before it was asked has reached all there is; one that was lost, nothing yet.
        stage = "effect" if party is None else party.stage or "accepted"
        items.append(
            replace(
                change_item(item, stage=stage, error=error),
                target=names.get(item.target, item.target),
                worker=item.target,
            )
        )
    return items
