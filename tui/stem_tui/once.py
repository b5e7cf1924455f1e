"""One look without a screen: what the Overview says, as text or JSON, for scripts, cron and screen readers.

Imports no Textual: it has to be quick, and it has to work where a terminal does not.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from typing import Any, Final, Literal, TextIO

from stem.clock import BoottimeClock
from stem.contracts import Broker, ListState, Seen
from stem.control.diagnose import diagnose
from stem.errors import BrokerRefusedError, BrokerUnreachableError, ConfigError, StemError, UnknownOutcomeError
from stem.observe.feed import take
from stem.observe.rates import MINUTES_KEPT
from stem.observe.rows import QueueLine, TaskLine, WorkerLine
from stem.observe.snapshot import Snapshot
from stem.observe.state import ClusterState
from stem.streams import give_up
from stem.text import clean
from stem_tui import figures, select, streams, tasks
from stem_tui.columns import Sorting, View, fit, ordered
from stem_tui.theme import Look
from stem_tui.width import cut

Format = Literal["text", "json", "jsonl"]
PAGES: Final[tuple[ListState, ...]] = ("running", "retrying", "dead")
FAILED: Final = 1
_SEE: Final = "see whether the server runs, and --url"
_FAILURES: Final[tuple[tuple[type[StemError], int, str, str], ...]] = (
    (ConfigError, 2, "config", "see the settings and the options"),
    (BrokerRefusedError, 5, "refused", "see user and password in --url, and what this user may do at the server"),
    (UnknownOutcomeError, 69, "unknown-outcome", _SEE),
    (BrokerUnreachableError, 69, "broker-unreachable", _SEE),
    (StemError, FAILED, "failed", ""),
)


async def run(
    broker: Broker,
    *,
    format: Format = "text",
    screen: str = "overview",
    width: int = 100,
    look: Look | None = None,
    watch_s: float | None = None,
    check: bool = False,
    out: TextIO | None = None,
) -> int:
    """Print one look, or one every `watch_s` seconds until cancelled; return the exit code.

    Args:
        screen: the part that is printed as text. JSON always holds everything.

    Returns:
        0; with `check` 1 when something is wrong (see `problems`); when the broker cannot be asked what `failure` says
        of it, 69 or 5; 1 when nothing can be written.
    """
    given: TextIO | None = out or sys.stdout
    if given is None:
        streams.say("cannot write the look: stdout is closed")
        return FAILED
    clock, look = BoottimeClock(), look or Look("mono")
    state = ClusterState(diagnose)
    while True:
        try:
            snapshot = await take(
                broker, clock=clock, pages=PAGES, minutes=MINUTES_KEPT, history=2_000, info=True, page=20
            )
        except StemError as error:
            code, words = failure(error)[0], _error_text(error, format)
        else:
            state.apply(snapshot, clock.monotonic())
            now_ms = clock.wall_ms() + state.offset_ms
            code = FAILED if check and problems(state) else 0
            if format == "text":
                lines = text(state, now_ms, url=broker.url, width=width, look=look, screen=screen)
                words = "\n".join(lines) + "\n"
            else:
                words = _json(plain(state, snapshot, now_ms, broker), format)
        try:
            given.write(words)
            given.flush()
        except BrokenPipeError:  # whoever read this has seen enough
            give_up(given)
            return code
        except OSError as error:
            give_up(given)
            streams.say(f"cannot write the look: {error.strerror or error}")
            return code or FAILED
        if watch_s is None:
            return code
        await asyncio.sleep(watch_s)


def failure(error: StemError) -> tuple[int, str, str]:
    """Return the exit code of an error, its word, and what to do: those that `stemctl` has for it."""
    return next((code, word, hint) for kind, code, word, hint in _FAILURES if isinstance(error, kind))


def problems(state: ClusterState) -> list[str]:
    """Return what is wrong, in words: sick workers, queues that nobody serves, a server without writes.

    What the server does not show is among it: nobody knows whether something is wrong there.
    """
    found = [f"the server does not show {part}: {why}" for part, why in sorted(state.refused.items())]
    for row in sorted(state.workers.values(), key=lambda each: each.name):
        if row.diagnosis in ("lost", "wedged") and not row.superseded:
            found.append(f"worker {row.name} is {row.diagnosis}")
    for queue in sorted(state.queues.values(), key=lambda each: each.name):
        if not queue.consumers and queue.ready:
            found.append(f"queue {queue.name} has {queue.ready:,} tasks ready and no worker")
    if state.info is not None and not state.info.writable:
        found.append("the server takes no writes")
    if state.info is not None and state.info.policy not in ("", "noeviction"):
        found.append(f"the server may drop tasks: maxmemory-policy is {clean(state.info.policy, 40)}")
    return found


# ---------------------------------------------------------------------------------------------------------------- text


def text(state: ClusterState, now_ms: int, *, url: str, width: int, look: Look, screen: str = "overview") -> list[str]:
    """Return the look as lines of text: all of it, or the part that this screen shows."""
    width = max(60, width)
    server = "" if state.info is None else f"  {clean(state.info.kind, 20)} {clean(state.info.version, 20)}"
    namespace = "" if state.info is None else f"  {clean(state.info.namespace)}"
    lines = [f"stem{namespace}  {url}{server}  {figures.date(now_ms)}"]
    lines += [f"! {problem}" for problem in problems(state)]
    few = 10 if screen == "overview" else 1_000
    parts: dict[str, list[str]] = {}
    parts["queues"] = _list(select.QUEUES, select.queue_rows(state), _note(select.queue_note(state)), now_ms, width,
                            look, ["No queues yet."])  # fmt: skip
    workers = select.worker_rows(state, now_ms)
    parts["workers"] = _list(select.WORKERS, workers, _note(select.worker_note(workers)), now_ms, width, look,
                   ["No workers seen. Start one: stemctl worker start mypkg.tasks:app"])  # fmt: skip
    groups = state.failures.groups(now_ms)
    parts["failures"] = _list(select.FAILURES, groups[:few], _note(select.failure_note(state, now_ms)), now_ms, width,
                              look, ["Nothing failed in the last hour."], count=len(groups), sort=False)  # fmt: skip
    running = state.longest.first(few)
    total = tasks.tab_count(state, "running") or 0
    parts["tasks"] = _list(tasks.LONGEST, running, f"{total:,} running", now_ms, width, look, ["Nothing is running."],
                   count=None)  # fmt: skip
    lines += parts[screen] if screen in parts else [line for part in parts.values() for line in part]
    return [look.text(line).rstrip() for line in lines]


def _note(cells: Sequence[Any]) -> str:
    return " · ".join(cell.text for cell in cells)


def _list(
    view: View[Any],
    rows: Sequence[Any],
    note: str,
    now_ms: int,
    width: int,
    look: Look,
    empty: list[str],
    *,
    count: int | None = -1,
    sort: bool = True,
) -> list[str]:
    shown = "" if count is None else f" {len(rows) if count == -1 else count}"
    lines = ["", f"{view.title}{shown}  {note}"]
    if not rows:
        return [*lines, *(f"  {line}" for line in empty)]
    fitted = fit(view.columns, width - 2)
    lines.append("  " + " ".join(cut(c.title, size, right=c.align == "right", look=look) for c, size in fitted))
    for row in ordered(view, rows, Sorting()) if sort else rows:
        cells = (
            cut(column.cell(row, now_ms).text, size, right=column.align == "right", look=look)
            for column, size in fitted
        )
        lines.append("  " + " ".join(cells))
    return lines


# ---------------------------------------------------------------------------------------------------------------- JSON


def plain(state: ClusterState, snapshot: Snapshot, now_ms: int, broker: Broker) -> dict[str, Any]:
    """Return the look as plain values, under the schema that `stemctl --json` uses."""
    info = state.info
    data = {
        "at_ms": now_ms,
        "url": broker.url,
        "namespace": broker.namespace,
        "server": None
        if info is None
        else {
            "kind": clean(info.kind),
            "version": clean(info.version),
            "writable": info.writable,
            "policy": clean(info.policy),
        },
        "problems": problems(state),
        "queues": [_queue(row) for row in sorted(state.queues.values(), key=lambda each: each.name)],
        "workers": [
            _worker(seen, state.workers[seen.heartbeat.id])
            for seen in snapshot.workers or ()
            if seen.heartbeat.id in state.workers
        ],
        "totals": {tab: tasks.tab_count(state, tab) for tab in ("queued", "running", "scheduled", "retrying", "dead")},
        "failures": [
            {
                "task": group.task,
                "error": group.error,
                "message": group.message,
                "count": group.count(now_ms),
                "last_ms": group.last_ms,
                "task_id": group.task_id,
            }
            for group in state.failures.groups(now_ms)
        ],
        "running": [_task(row) for row in state.longest.first(50)],
        "refused": dict(snapshot.refused),
    }
    return {"schema": "stem/1", "command": "tui --once", "ok": True, "data": data, "warnings": []}


def _queue(row: QueueLine) -> dict[str, Any]:
    return {
        "name": row.name,
        "ready": row.ready,
        "delayed": row.delayed,
        "retrying": row.retrying,
        "held": row.held,
        "in_flight": row.in_flight,
        "dead": row.dead,
        "oldest_ms": row.oldest_ms,
        "paused": row.paused,
        "consumers": row.consumers,
    }


def _worker(seen: Seen, row: WorkerLine) -> dict[str, Any]:
    return {
        "id": clean(row.key),
        "name": row.name,
        "host": row.host,
        "pid": row.pid,
        "state": row.state,
        "diagnosis": row.diagnosis,
        "concurrency": row.concurrency,
        "in_flight": row.in_flight,
        "queues": list(row.queues),
        "counters": dict(row.counters),
        "age_ms": seen.age_ms,
        "started_at_ms": row.started_ms,
        "rss_bytes": row.rss_bytes,
    }


def _task(row: TaskLine) -> dict[str, Any]:
    return {
        "id": row.id,
        "task": row.task,
        "queue": row.queue,
        "worker": row.worker,
        "attempt": row.attempt,
        "started_at_ms": row.started_ms,
    }


def _json(answer: dict[str, Any], format: Format) -> str:
    return json.dumps(answer, indent=2 if format == "json" else None, ensure_ascii=True) + "\n"


def _error_text(error: StemError, format: Format) -> str:
    """Return what an error is on stdout, where it has to be there; else say it on stderr."""
    words = clean(error, 400)
    if format == "text":
        streams.say(words)
        return ""
    _, code, hint = failure(error)
    body = {"code": code, "message": words, "hint": hint}
    return _json({"schema": "stem/1", "command": "tui --once", "ok": False, "error": body}, format)
