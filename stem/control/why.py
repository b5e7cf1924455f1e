"""Why a task is not running (or where it went): facts gathered from the broker, and a pure rule that explains them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import field
from typing import Any, Final

from stem.contracts import Broker, Pause, Seen
from stem.control.asking import Asker
from stem.control.diagnose import diagnose
from stem.control.doctor import span
from stem.control.lookup import concealed
from stem.control.target import addresses, live, missing
from stem.errors import BrokerRefusedError
from stem.messages.names import check_name
from stem.messages.status import TaskState, TaskStatus
from stem.record import record

PAGE: Final = 200
LOOK_AHEAD: Final = 1_000
"""How many waiting tasks are looked through for the place of one; beyond it the answer is "more than"."""


@record
class Cause:
    """One reason; `code` is stable, `text` a sentence for people (with untrusted names in it), `fix` what to do."""

    code: str
    text: str
    fix: str = ""


@record
class Explanation:
    """The answer: one sentence, and the causes behind it, the most important first."""

    state: str | None
    verdict: str
    causes: Sequence[Cause]

    def to_plain(self) -> dict[str, Any]:
        return {
            "state": self.state,
            "verdict": self.verdict,
            "causes": [{"code": cause.code, "text": cause.text, "fix": cause.fix} for cause in self.causes],
        }


@record
class Ahead:
    """What stands before a waiting task.

    Attributes:
        ready: tasks that start before it, `higher` of them because of their priority.
        more: it was not among the first `LOOK_AHEAD`, so there are at least this many.
    """

    ready: int
    higher: int
    more: bool = False


@record
class Facts:
    """What is known around one task, at one moment of the broker's clock.

    Attributes:
        registered: by worker id, the task names it registered; workers that did not say are left out.
    """

    id: str
    now_ms: int
    status: TaskStatus | None
    pauses: Sequence[Pause] = ()
    workers: Sequence[Seen] = ()
    registered: Mapping[str, Collection[str]] = field(default_factory=dict)
    ahead: Ahead | None = None


async def why(broker: Broker, asker: Asker, task_id: str) -> Explanation:
    """Gather the facts around a task and explain them.

    Args:
        asker: asks the live workers which names they register; a short timeout will do.

    Raises:
        InvalidNameError: the id is ill-formed.
    """
    return explain(await gather(broker, asker, check_name("task id", task_id)))


async def gather(broker: Broker, asker: Asker, task_id: str) -> Facts:
    """Read what `explain` needs; bounded work, whatever the backlog."""
    (status,) = await broker.statuses([task_id], timeline=False)
    if status is not None and status.error is not None:
        status = await concealed(broker, status)
    workers = await broker.presence.workers()
    # The newest beat tells the broker's time without asking for it.
    now_ms = max((seen.at_ms + seen.age_ms for seen in workers), default=time.time_ns() // 1_000_000)
    if status is None or status.state.final or status.state is TaskState.RUNNING:
        return Facts(id=task_id, now_ms=now_ms, status=status, workers=workers)
    takers = [seen.heartbeat.id for seen in live(workers) if status.queue in seen.heartbeat.queues]
    registered: dict[str, Collection[str]] = {}
    if takers:
        # Who may only look asks nobody; then they are given the benefit of the doubt.
        with contextlib.suppress(BrokerRefusedError):
            for answer in (await asker.inspect("registered", takers)).workers:
                if answer.ok:
                    registered[answer.id] = registered_names(answer.data)
    ahead = await _ahead(broker, status) if status.state is TaskState.QUEUED else None
    return Facts(
        id=task_id,
        now_ms=now_ms,
        status=status,
        pauses=await broker.census.pauses(),
        workers=workers,
        registered=registered,
        ahead=ahead,
    )


def registered_names(data: Mapping[str, Any]) -> frozenset[str]:
    """Return the task names in a worker's answer to `inspect registered`; what is not a name is left out."""
    rows = data.get("items")
    return frozenset(
        name
        for row in (rows if isinstance(rows, list) else ())
        if isinstance(row, Mapping) and isinstance(name := row.get("name"), str)
    )


async def _ahead(broker: Broker, status: TaskStatus) -> Ahead | None:
    """Return what stands before it; None where it stands in none of the pages."""
    before: list[TaskStatus] = []
    cursor: str | None = None
    while len(before) < LOOK_AHEAD:
        page = await broker.census.tasks("queued", queue=status.queue, cursor=cursor, limit=PAGE)
        for index, task in enumerate(page.items):
            if task.id == status.id:
                return _counted(before + list(page.items[:index]), status, more=False)
        before += page.items
        cursor = page.next
        if cursor is None:
            return None  # it has just been taken, or the pages moved under it
    return _counted(before, status, more=True)


def _counted(before: Sequence[TaskStatus], status: TaskStatus, *, more: bool) -> Ahead:
    return Ahead(ready=len(before), higher=sum(task.priority > status.priority for task in before), more=more)


# ------------------------------------------------------------------------------------------------------------ the rule


def explain(facts: Facts) -> Explanation:
    """Return the verdict on a task and its causes."""
    status = facts.status
    if status is None:
        cause = Cause(
            code="unknown-id",
            text="no task of this id is known here: it was never enqueued in this namespace, or its record has expired",
            fix="check the id, --url and --namespace; results are kept for the task's result_ttl (1 day by default)",
        )
        return Explanation(state=None, verdict=f"{facts.id}: {cause.text}.", causes=[cause])
    if status.state is TaskState.RUNNING:
        causes = [_running(facts, status)]
    elif status.state.final:
        causes = [_final(facts, status)]
    else:
        causes = list(_waiting(facts, status))
    verdict = f"{status.id} ({status.task}) {_word(status)}: {causes[0].text}."
    return Explanation(state=status.state.value, verdict=verdict, causes=causes)


def _word(status: TaskStatus) -> str:
    if status.state in (TaskState.QUEUED, TaskState.SCHEDULED, TaskState.RETRYING):
        return f"waits in queue {status.queue}"
    return "is running" if status.state is TaskState.RUNNING else f"is {status.state.value}"


def _waiting(facts: Facts, status: TaskStatus) -> Iterator[Cause]:
    due = status.due_at_ms
    later = due is not None and due > facts.now_ms
    if status.state is TaskState.RETRYING:
        yield Cause(
            code="retrying",
            text=f"attempt {status.attempt} failed{_last_error(status)}; the next is due {_when(due, facts.now_ms)}",
            fix=f"to run it now: stemctl tasks retry {status.id}",
        )
    elif later:
        yield Cause(
            code="scheduled",
            text=f"it is scheduled for {_when(due, facts.now_ms)}",
            fix=f"to run it now: stemctl tasks retry {status.id}",
        )
    found = list(_hindrances(facts, status))
    yield from found
    if later or status.state is TaskState.RETRYING:
        return
    if facts.ahead is None:
        if not found:
            yield Cause(code="moved", text="it has just been taken, or moved in its queue", fix="ask again")
    elif facts.ahead.ready:
        yield _behind(facts.ahead)
    elif not found:
        yield Cause(code="next", text="nothing stands in its way; it starts as soon as a worker takes it", fix="")


def _behind(ahead: Ahead) -> Cause:
    count = f"more than {ahead.ready}" if ahead.more else str(ahead.ready)
    higher = f", {ahead.higher} of them of higher priority" if ahead.higher else ""
    return Cause(
        code="behind",
        text=f"{count} ready {'task stands' if count == '1' else 'tasks stand'} before it{higher}",
        fix="start more workers for this queue, or raise their concurrency",
    )


def _hindrances(facts: Facts, status: TaskStatus) -> Iterator[Cause]:
    for pause in facts.pauses:
        if (pause.kind, pause.target) in (("queue", status.queue), ("task", status.task)):
            yield Cause(
                code=f"{pause.kind}-paused",
                text=f"{pause.kind} {pause.target} is paused{_pause_text(pause, facts.now_ms)}",
                fix=f"stemctl resume --{pause.kind} {pause.target}",
            )
    alive = [seen for seen in live(facts.workers) if status.queue in seen.heartbeat.queues]
    if not alive:
        yield _nobody(facts, status)
        return
    knowing = [seen for seen in alive if status.task in facts.registered.get(seen.heartbeat.id, (status.task,))]
    if not knowing:
        yield Cause(
            code="unregistered",
            text=f"no live worker of queue {status.queue} registers the task {status.task} ({_names(alive)} do not)",
            fix=f"start a worker whose application has {status.task}, or fix the name; "
            "after 1 h it becomes a dead letter",
        )
        return
    yield from _all_kept(facts, status, knowing)


def _nobody(facts: Facts, status: TaskStatus) -> Cause:
    lost = [seen for seen in missing(facts.workers) if status.queue in seen.heartbeat.queues]
    if lost:
        ages = ", ".join(f"{seen.heartbeat.name} (last beat {span(seen.age_ms)} ago)" for seen in lost[:3])
        return Cause(
            code="workers-lost",
            text=f"all workers of queue {status.queue} are lost: {ages}",
            fix=f"start one: stem-worker APP --queue {status.queue}; look at the host and the logs of the lost ones",
        )
    others = sorted({queue for seen in live(facts.workers) for queue in seen.heartbeat.queues})
    taken = f"; the queues taken now: {', '.join(others[:10])}" if others else "; no worker is there at all"
    return Cause(
        code="no-worker",
        text=f"no live worker takes queue {status.queue}{taken}",
        fix=f"start one: stem-worker APP --queue {status.queue}",
    )


def _all_kept(facts: Facts, status: TaskStatus, workers: Sequence[Seen]) -> Iterator[Cause]:
    """Name what keeps every worker that could take the task, one cause per kind; nothing if one of them is free."""
    groups: dict[str, list[Seen]] = {}
    for seen in workers:
        beat = seen.heartbeat
        paused = any(p.kind == "worker" and addresses([p.target], beat.id, beat.name) for p in facts.pauses)
        groups.setdefault("paused" if paused else diagnose(seen), []).append(seen)
    if "healthy" in groups:
        return
    said: dict[str, tuple[str, str]] = {
        "paused": ("paused", "stemctl resume --worker NAME"),
        "wedged": ("wedged: a handler blocks the work loop", "see where: stemctl inspect stack"),
        "draining": ("draining: they take no more work", "stemctl undrain NAME, or start other workers"),
        "busy": ("busy: every slot is taken", "wait, start more workers, or see `stemctl inspect active`"),
    }
    for kind, (text, fix) in said.items():
        if found := groups.get(kind):
            all_ = "all workers that could run it are" if len(found) == len(workers) else f"{len(found)} of them are"
            yield Cause(code=f"workers-{kind}", text=f"{all_} {text} ({_names(found)})", fix=fix)


def _running(facts: Facts, status: TaskStatus) -> Cause:
    since = "" if status.started_at_ms is None else f" for {span(facts.now_ms - status.started_at_ms)}"
    seen = next((one for one in facts.workers if one.heartbeat.id == status.worker), None)
    where = seen.heartbeat.name if seen is not None else status.worker or "a worker"
    if seen is None or seen.lost or seen.stopped:
        beat = "not heard of within the hour" if seen is None else f"last heard of {span(seen.age_ms)} ago"
        fix = "nothing to do: it runs elsewhere when its lease runs out (visibility_timeout, 30 s by default)"
        if not any(status.queue in one.heartbeat.queues for one in facts.workers if not (one.lost or one.stopped)):
            fix = f"no live worker takes from {status.queue}, nor takes it back: stem-worker APP --queue {status.queue}"
        return Cause(code="worker-lost", text=f"its worker {where} is gone ({beat})", fix=fix)
    if diagnose(seen) == "wedged":
        return Cause(
            code="wedged",
            text=f"it has been on {where}{since}, and a handler there blocks the work loop",
            fix=f"see where it stands: stemctl inspect stack {where}",
        )
    return Cause(
        code="running",
        text=f"it has been on {where}{since}, attempt {status.attempt}",
        fix=f"to stop it: stemctl revoke {status.id} --terminate",
    )


_DEAD: Final = {
    "poison": ("its worker was lost under it again and again", "find out what kills the worker, then "),
    "unregistered": (
        "for an hour no worker that took it could run it (its name, its version or its isolation)",
        "let every worker of its queue register it, then ",
    ),
    "signature-invalid": ("its signature is missing or wrong", "check STEM_SIGNING_KEYS on both sides, then "),
    "malformed": ("its body cannot be read", "see who wrote it; "),
}


def _final(facts: Facts, status: TaskStatus) -> Cause:
    at = f" {_when(status.finished_at_ms, facts.now_ms)}" if status.finished_at_ms is not None else ""
    if status.state is TaskState.SUCCEEDED:
        return Cause(code="succeeded", text=f"it ended well{at}", fix=f"its result: stemctl result {status.id}")
    if status.state is TaskState.EXPIRED:
        return Cause(
            code="expired",
            text=f"its expiry passed before a worker could start it{' again' if status.token else ''}{at}",
            fix="enqueue it again, with a later expiry or more workers",
        )
    if status.state is TaskState.REVOKED:
        reason = f", because: {status.reason}" if status.reason else ""
        return Cause(code="revoked", text=f"it was revoked{at}{reason}", fix="enqueue it again under a new id")
    what, first = _DEAD.get(status.reason, (f"its last attempt failed{_last_error(status)}", "fix the cause, then "))
    return Cause(
        code=status.reason if status.reason in _DEAD else "failed",
        text=f"it is a dead letter{at}: {what}",
        fix=f"{first}stemctl dlq replay {status.id}",
    )


def _last_error(status: TaskStatus) -> str:
    error = status.error
    return "" if error is None else f" with {error.type}: {error.message[:200]}"


def _pause_text(pause: Pause, now_ms: int) -> str:
    who = f" by {pause.actor}" if pause.actor else ""
    since = f" since {_when(pause.at_ms, now_ms)}" if pause.at_ms else ""
    until = f", until {_when(pause.until_ms, now_ms)}" if pause.until_ms is not None else ""
    reason = f", because: {pause.reason}" if pause.reason else ""
    return f"{who}{since}{until}{reason}"


def _names(workers: Sequence[Seen]) -> str:
    more = f" and {len(workers) - 5} more" if len(workers) > 5 else ""
    return ", ".join(seen.heartbeat.name for seen in workers[:5]) + more


def _when(at_ms: int | None, now_ms: int) -> str:
    if at_ms is None:
        return "soon"
    clock = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(min(max(at_ms // 1000, 0), 253_402_214_400)))
    return f"{clock} (in {span(at_ms - now_ms)})" if at_ms > now_ms else f"{clock} ({span(now_ms - at_ms)} ago)"
