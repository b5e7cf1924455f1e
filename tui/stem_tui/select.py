"""Which rows each list shows, out of the state, and what stands in their columns. Pure, knows no widget."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from operator import attrgetter
from typing import Final

from stem.observe.failures import KEPT_MS, WINDOW_MS, FailureGroup
from stem.observe.rows import EventLine, QueueLine, WorkerLine
from stem.observe.state import QUIET, ClusterState
from stem.text import clean
from stem_tui import figures
from stem_tui.columns import Column, View
from stem_tui.theme import QUEUE, UNKNOWN, WORKER, Cell, Sign, event_sign

STOPPED_SHOWN_MS: Final = 60_000
_SEVERITY: Final = {word: rank for rank, word in enumerate(WORKER)}
NONE: Final = Cell("–", "faint")


def number(value: int, tone: str = "text") -> Cell:
    """Return a count; nothing is faint, so that something stands out."""
    return Cell(figures.count(value), tone if value else "faint")


def speed(value: float, tone: str = "text") -> Cell:
    return Cell(figures.rate(value), tone if value > 0 else "faint")


# -------------------------------------------------------------------------------------------------------------- queues


def queue_sign(row: QueueLine) -> Sign:
    if row.paused:
        return QUEUE["paused"]
    return QUEUE["idle"] if not row.consumers and (row.ready or row.delayed or row.retrying) else QUEUE["run"]


QUEUES: Final[View[QueueLine]] = View(
    kind="queue",
    title="QUEUES",
    key=attrgetter("key"),
    order=lambda row: (row.ready, row.in_flight),
    order_down=True,
    columns=(
        Column(key="name", title="NAME", width=10, grow=3, cell=lambda r, _: Cell(r.name, "strong"),
               sort=lambda r: r.name),
        Column(key="state", title="STATE", width=11, cell=lambda r, _: queue_sign(r).cell,
               sort=lambda r: queue_sign(r).word),
        Column(key="ready", title="READY", width=7, align="right", cell=lambda r, _: number(r.ready),
               sort=lambda r: r.ready, down=True),
        Column(key="run", title="RUN", width=6, align="right", cell=lambda r, _: number(r.in_flight, "accent"),
               sort=lambda r: r.in_flight, down=True),
        Column(key="delay", title="DELAY", width=6, align="right", cell=lambda r, _: number(r.delayed),
               sort=lambda r: r.delayed, down=True, keep=3),
        Column(key="retry", title="RETRY", width=6, align="right", cell=lambda r, _: number(r.retrying, "warn"),
               sort=lambda r: r.retrying, down=True),
        Column(key="dead", title="DEAD", width=5, align="right", cell=lambda r, _: number(r.dead, "bad"),
               sort=lambda r: r.dead, down=True),
        Column(key="in", title="IN/s", width=5, align="right", keep=4, cell=lambda r, _: speed(r.came.rate()),
               sort=lambda r: r.came.rate(), down=True),
        Column(key="out", title="OUT/s", width=5, align="right", keep=5, cell=lambda r, _: speed(r.went.rate()),
               sort=lambda r: r.went.rate(), down=True),
        Column(key="oldest", title="OLDEST", width=6, align="right", keep=6,
               cell=lambda r, _: NONE if r.oldest_ms is None else Cell(figures.ago(r.oldest_ms), "dim"),
               sort=lambda r: r.oldest_ms, down=True),
        Column(key="held", title="HELD", width=5, align="right", keep=8, cell=lambda r, _: number(r.held, "warn"),
               sort=lambda r: r.held, down=True),
        Column(key="workers", title="WORKERS", width=7, align="right", keep=9, cell=lambda r, _: number(r.consumers),
               sort=lambda r: r.consumers, down=True),
    ),
    fields={
        "name": lambda r, _: r.name,
        "queue": lambda r, _: r.name,
        "state": lambda r, _: queue_sign(r).word,
        "ready": lambda r, _: float(r.ready),
        "dead": lambda r, _: float(r.dead),
        "age": lambda r, _: None if r.oldest_ms is None else r.oldest_ms / 1000,
    },
)  # fmt: skip


def queue_rows(state: ClusterState) -> list[QueueLine]:
    return list(state.queues.values())


def queue_note(state: ClusterState) -> list[Cell]:
    """Return the exact totals and the exceptions."""
    rows = state.queues.values()
    ready, running = sum(row.ready for row in rows), sum(row.in_flight for row in rows)
    retrying, dead = sum(row.retrying for row in rows), sum(row.dead for row in rows)
    paused = sum(row.paused for row in rows)
    parts = [Cell(f"{ready:,} ready"), Cell(f"{running:,} in flight", "accent" if running else "text")]
    if retrying:
        parts.append(Cell(f"{retrying:,} retrying", "warn"))
    if paused:
        parts.append(Cell(f"‖ {paused} paused", "warn"))
    if dead:
        parts.append(Cell(f"✗ {dead:,} dead", "bad"))
    return parts


# ------------------------------------------------------------------------------------------------------------- workers


def worker_sign(row: WorkerLine) -> Sign:
    if row.diagnosis in ("healthy", "busy"):
        if row.paused_here:
            return WORKER["paused"]
        if row.state == "starting":
            return WORKER["starting"]
    return WORKER.get(row.diagnosis, UNKNOWN)


def _severity(row: WorkerLine) -> tuple[int, str]:
    rank = _SEVERITY.get(row.diagnosis, 0)
    # Up is up: whether a slot is free changes every moment and shall not move rows.
    return (_SEVERITY["healthy"] if row.diagnosis == "busy" else rank, row.name)


def _alive(row: WorkerLine) -> bool:
    return row.diagnosis not in ("lost", "stopped")


def _slots(row: WorkerLine, cells: int) -> Cell:
    tone = "faint" if not _alive(row) else "bad" if row.diagnosis == "wedged" or row.zombie_threads else "ok"
    # What a lost worker had at its last beat went back to the queue since, or will: nobody knows what it runs.
    share = f"{'–' if row.diagnosis == 'lost' else row.in_flight}/{row.concurrency}"
    return Cell(f"{figures.bar(row.in_flight if _alive(row) else 0, row.concurrency, cells)} {share:>6}", tone)


def _beat(row: WorkerLine, now_ms: int) -> Cell:
    since_ms = max(0, now_ms - row.at_ms)
    tone = "dim" if since_ms <= 2 * row.interval_ms or row.diagnosis == "stopped" else "warn"
    return Cell(figures.age(row.at_ms, now_ms), tone)


def _if_alive(row: WorkerLine, cell: Cell) -> Cell:
    return cell if _alive(row) else NONE


def _known(value: Callable[[WorkerLine], float | None]) -> Callable[[WorkerLine], float | None]:
    """Return what to sort by where only those that are alive have something to show."""
    return lambda row: value(row) if _alive(row) else None


def _state(row: WorkerLine) -> tuple[int, str]:
    """Return its place by the word shown, which says more than the diagnosis of those that are paused or start."""
    word = next((name for name, sign in WORKER.items() if sign is worker_sign(row)), "")
    return _severity(row) if word in ("healthy", "busy") else (_SEVERITY.get(word, 0), row.name)


WORKERS: Final[View[WorkerLine]] = View(
    kind="worker",
    title="WORKERS",
    key=attrgetter("key"),
    order=_severity,
    columns=(
        Column(key="name", title="NAME", width=13, grow=4,
               cell=lambda r, _: Cell(r.name, "strong" if _alive(r) else "dim"), sort=lambda r: r.name),
        Column(key="state", title="STATE", width=9, cell=lambda r, _: worker_sign(r).cell, sort=_state),
        Column(key="slots", title="SLOTS", width=12, cell=lambda r, _: _slots(r, 5),
               sort=lambda r: None if r.diagnosis == "lost" else r.in_flight, down=True),
        Column(key="ok", title="OK/s", width=5, align="right", keep=2,
               cell=lambda r, _: _if_alive(r, speed(r.succeeded.rate(r.rate_s))),
               sort=_known(lambda r: r.succeeded.rate(r.rate_s)), down=True),
        Column(key="fail", title="FAIL/s", width=6, align="right", keep=3,
               cell=lambda r, _: _if_alive(r, speed(r.failed.rate(r.rate_s), "bad")),
               sort=_known(lambda r: r.failed.rate(r.rate_s)), down=True),
        Column(key="rss", title="RSS", width=5, align="right", keep=4,
               cell=lambda r, _: _if_alive(r, Cell(figures.size(r.rss_bytes), "dim")),
               sort=_known(lambda r: r.rss_bytes or None), down=True),
        Column(key="cpu", title="CPU", width=4, align="right", keep=7,
               cell=lambda r, _: _if_alive(r, Cell(f"{r.cpu_percent:.0f}%", "dim")),
               sort=_known(lambda r: r.cpu_percent), down=True),
        Column(key="beat", title="BEAT", width=6, align="right", cell=_beat,
               sort=lambda r: -r.at_ms or None, down=True),
        Column(key="up", title="UP", width=6, align="right", keep=5,
               cell=lambda r, now: _if_alive(r, Cell(figures.age(r.started_ms, now), "dim")),
               sort=_known(lambda r: -r.started_ms or None), down=True),
        Column(key="queues", title="QUEUES", width=10, grow=2, keep=6,
               cell=lambda r, _: Cell(",".join(r.queues), "dim"), sort=lambda r: r.queues),
        Column(key="done", title="DONE", width=7, align="right", keep=8,
               cell=lambda r, _: number(r.counters.get("succeeded", 0), "dim"),
               sort=lambda r: r.counters.get("succeeded", 0), down=True),
        Column(key="host", title="HOST", width=10, grow=1, keep=9, cell=lambda r, _: Cell(r.host, "dim"),
               sort=lambda r: r.host),
        Column(key="pid", title="PID", width=7, align="right", keep=10, cell=lambda r, _: Cell(str(r.pid), "dim"),
               sort=lambda r: r.pid),
    ),
    fields={
        "name": lambda r, _: r.name,
        "id": lambda r, _: r.key.casefold(),
        "worker": lambda r, _: r.name,
        "state": lambda r, _: worker_sign(r).word,
        "host": lambda r, _: r.host,
        "queue": lambda r, _: ",".join(r.queues),
        "age": lambda r, now: (now - r.started_ms) / 1000,
        "beat": lambda r, now: (now - r.at_ms) / 1000,
    },
)  # fmt: skip


def worker_rows(state: ClusterState, now_ms: int, *, gone: bool = False) -> list[WorkerLine]:
    """Return the workers that matter: not those that said goodbye over a minute ago, nor lost ones that came again.

    Args:
        gone: those too.
    """
    if gone:
        return list(state.workers.values())
    return [
        row
        for row in state.workers.values()
        if not (row.diagnosis == "stopped" and now_ms - row.at_ms > STOPPED_SHOWN_MS) and not row.superseded
    ]


def worker_note(rows: Iterable[WorkerLine]) -> list[Cell]:
    counts: dict[str, int] = {}
    for row in rows:
        word = "healthy" if row.diagnosis == "busy" else row.diagnosis
        counts[word] = counts.get(word, 0) + 1
    parts = [Cell(f"{counts.get('healthy', 0)} up", "ok" if counts.get("healthy") else "dim")]
    for word in ("late", "draining", "wedged", "lost"):
        if counts.get(word):
            sign = WORKER[word]
            parts.append(Cell(f"{sign.glyph} {counts[word]} {word}", sign.tone))
    return parts


# ------------------------------------------------------------------------------------------------------------ failures


def _failures(row: FailureGroup, now_ms: int) -> Cell:
    count = row.count(now_ms)
    return Cell(f"×{figures.count(count)}", "strong") if count else NONE


FAILURES: Final[View[FailureGroup]] = View(
    kind="failure",
    title="FAILURES",
    key=attrgetter("key"),
    columns=(
        Column(key="sign", title="", width=1, cell=lambda r, now: Cell("✗", "bad" if r.count(now) else "faint")),
        Column(key="task", title="TASK", width=16, grow=1, cell=lambda r, _: Cell(r.task, "strong"),
               sort=lambda r: r.task),
        Column(key="error", title="ERROR", width=20, grow=3,
               cell=lambda r, _: Cell(f"{r.error}: {r.message}" if r.message else r.error),
               sort=lambda r: (r.error, r.message)),
        Column(key="count", title="IN 5m", width=7, align="right", cell=_failures),
        Column(key="hour", title="IN 1h", width=7, align="right", keep=2,
               cell=lambda r, now: Cell(f"×{figures.count(r.count(now, KEPT_MS))}", "dim")),
        Column(key="last", title="LAST", width=6, align="right",
               cell=lambda r, now: Cell(figures.age(r.last_ms, now), "dim"), sort=lambda r: -r.last_ms),
    ),
    fields={
        "name": lambda r, _: r.task,
        "queue": lambda r, _: r.queue,
        "error": lambda r, _: f"{r.error}: {r.message}",
        "age": lambda r, now: (now - r.last_ms) / 1000,
    },
)  # fmt: skip


def failure_note(state: ClusterState, now_ms: int) -> list[Cell]:
    groups = state.failures.groups(now_ms)
    recent = [group for group in groups if group.count(now_ms)]
    grouped = sum(group.count(now_ms) for group in recent)
    # The broker counts each failed attempt; events and history, which the groups are made of, may not go back so far.
    counted = sum(state.minutes.recent(name, now_ms, WINDOW_MS) for name in ("failed", "retried"))
    total = max(grouped, counted)
    least = "≥ " if state.incomplete(now_ms) and counted <= grouped else ""
    # The statistics are asked for now and then: what they do not know of yet is a part of the hour too.
    hour = max(state.minutes.flow().count("failed", "retried"), sum(group.count(now_ms, KEPT_MS) for group in groups))
    parts = [Cell(f"{max(hour, total):,} in 1h", "dim")]
    parts.append(Cell(f"{least}{total:,} in 5m", "bad" if total else "dim"))
    if recent:
        parts.append(Cell(f"{len(recent)} {'kind' if len(recent) == 1 else 'kinds'}", "bad"))
    return parts


# -------------------------------------------------------------------------------------------------------------- events

EVENTS: Final[View[EventLine]] = View(
    kind="event",
    follows=True,
    title="EVENTS",
    key=attrgetter("key"),
    columns=(
        Column(key="at", title="TIME", width=12, cell=lambda r, _: Cell(figures.clock(r.at_ms, milliseconds=True),
                                                                        "dim")),
        Column(key="kind", title="EVENT", width=16,
               cell=lambda r, _: Cell(f"{event_sign(r.kind).glyph} {r.kind}", event_sign(r.kind).tone)),
        Column(key="task", title="TASK", width=14, grow=2, cell=lambda r, _: Cell(r.task or r.queue or "–", "strong")),
        Column(key="id", title="ID", width=8, keep=2, cell=lambda r, _: Cell(r.task_id[-8:] or "–", "dim")),
        Column(key="worker", title="WORKER", width=12, grow=2, keep=1, cell=lambda r, _: Cell(r.worker or "–", "dim")),
        Column(key="text", title="", width=12, grow=5, cell=lambda r, _: Cell(r.text)),
    ),
    fields={
        "name": lambda r, _: r.task,
        "kind": lambda r, _: r.kind,
        # Of a task its state, of a worker what became of it: one language for all lists.
        "state": lambda r, _: r.kind.partition(".")[2],
        "id": lambda r, _: r.task_id.casefold(),
        "queue": lambda r, _: r.queue,
        "worker": lambda r, _: r.worker,
        "error": lambda r, _: r.text,
        "age": lambda r, now: (now - r.at_ms) / 1000,
    },
)  # fmt: skip
EVENTS_HERE: Final[View[EventLine]] = replace(
    EVENTS, title="ITS EVENTS", columns=[column for column in EVENTS.columns if column.key != "worker"]
)
CHATTER: Final = frozenset({"task.received", "task.progress"})
"""Events that say nothing that the rest does not."""


EVENT_TABS: Final[dict[str, Callable[[EventLine], bool]]] = {
    "notable": lambda row: row.kind not in QUIET,
    "failures": lambda row: row.kind in ("task.failed", "task.retried"),
    "fleet": lambda row: not row.kind.startswith("task."),
    "busy": lambda row: row.kind not in CHATTER,
    "all": lambda row: True,
}
"""What each tab of the Events screen shows."""


def event_rows(
    state: ClusterState, tab: str = "all", *, owner: str = "", worker: str = "", limit: int = 500
) -> list[EventLine]:
    """Return the events of a tab, newest first.

    Args:
        owner: the key of a worker: its events alone, and those of its shown name `worker` that no other one's key has.
    """
    passes = EVENT_TABS[tab]
    rows: list[EventLine] = []
    for row in reversed(state.events if tab in ("busy", "all") else state.news):
        if (owner and not _of(row, owner, worker)) or not passes(row):
            continue
        rows.append(row)
        if len(rows) >= limit:
            break
    # Batches of several workers arrive in turns: what is shown is in the order it happened.
    return sorted(rows, key=lambda row: row.at_ms, reverse=True)


def _of(row: EventLine, owner: str, worker: str) -> bool:
    """Say whether an event is a worker's. Where two have a name, what is said by name alone may be either's."""
    return row.owner == owner or (row.worker == worker and clean(row.owner) in ("", worker))
