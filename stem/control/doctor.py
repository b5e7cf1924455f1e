"""What is wrong with a namespace and its server, each with what to do: a pure rule over facts gathered elsewhere.

Knows values only; `stem.control.checkup` reads them from a broker.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import field
from typing import Any, Final, Literal

from stem.contracts import Examination, Limits, Pause, QueueRow, Seen, ServerInfo
from stem.control.diagnose import diagnose
from stem.control.target import addresses, live, missing
from stem.record import record

Severity = Literal["error", "warning"]
CHECKS: Final = (
    *("server", "durability", "memory", "buffers", "keyspace", "leases", "consumers"),
    *("workers", "answers", "versions", "clocks", "queues", "names", "pauses"),
)
SKEW_MS: Final = 2_000
"""A worker's clock further from the server's than this is wrong, not just late."""
LATE_MS: Final = 30_000
"""A sweep takes a lease that ran out back within seconds, and within two beats more after an outage."""
FORGOTTEN_MS: Final = 3_600_000
MEMORY_NEAR: Final = 0.85
FULL_NEAR: Final = 0.9
_BUFFERS: Final = {"pubsub": 1_048_576, "normal": 16_777_216}
"""The least that the output buffers of a class of clients need: a wake-up is small, an answer may hold many tasks."""


@record
class Finding:
    """One thing that is wrong; `code` is stable, `text` a sentence with untrusted names in it, `fix` what to do."""

    code: str
    severity: Severity
    text: str
    fix: str

    def to_plain(self) -> dict[str, Any]:
        return {"code": self.code, "severity": self.severity, "text": self.text, "fix": self.fix}


@record
class Facts:
    """What is known of a namespace, at one moment of the broker's clock.

    Attributes:
        version: of the program that asks.
        answers: by worker id, how a worker that was asked is (`healthy`, `deaf`, …); None: nobody could be asked.
        registered: by worker id, the task names it registered; workers that did not say are left out.
        waiting: by queue, the names of the tasks that wait at its head.
        unread: what else could not be looked at, and why.
    """

    version: str
    info: ServerInfo
    limits: Limits
    examination: Examination
    workers: Sequence[Seen] = ()
    queues: Sequence[QueueRow] = ()
    pauses: Sequence[Pause] = ()
    answers: Mapping[str, str] | None = None
    registered: Mapping[str, Collection[str]] = field(default_factory=dict)
    waiting: Mapping[str, Collection[str]] = field(default_factory=dict)
    unread: Mapping[str, str] = field(default_factory=dict)


@record
class Diagnosis:
    """The findings, the worst first; what was checked; what could not be, and why; how durable the server is."""

    findings: Sequence[Finding]
    checked: Sequence[str]
    skipped: Mapping[str, str]
    durability: str

    def to_plain(self) -> dict[str, Any]:
        return {
            "findings": [finding.to_plain() for finding in self.findings],
            "checked": list(self.checked),
            "skipped": [{"check": check, "why": why} for check, why in self.skipped.items()],
            "durability": self.durability,
        }


def judge(facts: Facts) -> Diagnosis:
    """Return what is wrong."""
    found = [
        *_server(facts),
        *_durability(facts),
        *_memory(facts),
        *_buffers(facts),
        *_keys(facts),
        *_left(facts),
        *_workers(facts),
        *_queues(facts),
        *_names(facts),
        *_pauses(facts),
    ]
    skipped = _skipped(facts)
    return Diagnosis(
        findings=sorted(found, key=lambda finding: finding.severity != "error"),
        checked=[check for check in CHECKS if check not in skipped],
        skipped=skipped,
        durability=durability(facts),
    )


def _skipped(facts: Facts) -> dict[str, str]:
    refused = facts.examination.refused
    skipped = dict(facts.unread)
    for what, check in (
        ("settings", "buffers"),
        ("keyspace", "keyspace"),
        ("consumers", "consumers"),
        ("leases", "leases"),
    ):
        if what in refused:
            skipped[check] = refused[what]
    return skipped


# -------------------------------------------------------------------------------------------------------------- server


def _server(facts: Facts) -> Iterator[Finding]:
    info, state = facts.info, facts.examination.state
    if state.get("role") == "slave":
        yield Finding(
            code="replica",
            severity="error",
            text=f"{info.url} is a replica: it takes no writes",
            fix="point STEM_BROKER_URL at the primary",
        )
    elif not info.writable:
        yield Finding(
            code="not-writable",
            severity="error",
            text="the server takes no writes",
            fix="look at its log: memory, disk, and the rights of this user",
        )
    for name, what in (("aof_last_write_status", "append-only file"), ("rdb_last_bgsave_status", "snapshot")):
        if state.get(name, "ok") != "ok":
            yield Finding(
                code="disk",
                severity="error",
                text=f"the server could not write its {what}",
                fix="free space on its disk, and look at its log; until then a restart loses what came since",
            )


def durability(facts: Facts) -> str:
    """Return what the server's settings let survive, in one sentence."""
    info, fsync = facts.info, facts.examination.settings.get("appendfsync", "")
    if info.kind == "memory":
        return "in this process's memory: nothing survives it"
    if not info.persistent:
        return "no append-only file: a crash of the server loses every task since its last snapshot, if it makes any"
    survives = "append-only file: a crash of the server loses nothing it acknowledged"
    return {
        "always": f"{survives}, nor does a power cut",
        "everysec": f"{survives}; a power cut loses about the last second",
        "no": f"{survives}; a power cut loses what the system had not written yet, some 30 s",
    }.get(fsync, f"{survives}; what a power cut loses depends on appendfsync, which cannot be read here")


def _durability(facts: Facts) -> Iterator[Finding]:
    settings, state = facts.examination.settings, facts.examination.state
    if facts.info.kind == "memory":
        return
    if not facts.info.persistent:
        yield Finding(
            code="no-aof",
            severity="error",
            text="the server keeps no append-only file: when it crashes or restarts, tasks are lost",
            fix="CONFIG SET appendonly yes, and the same in its configuration file",
        )
    elif settings.get("appendfsync") == "no":
        yield Finding(
            code="no-fsync",
            severity="warning",
            text="appendfsync is no: a power cut loses the tasks of up to half a minute",
            fix="CONFIG SET appendfsync everysec (always is five times slower), and the same in its configuration file",
        )
    replicas = state.get("connected_slaves", "0")
    if replicas.isdigit() and int(replicas) > 0 and settings.get("min-replicas-to-write") == "0":
        yield Finding(
            code="no-min-replicas",
            severity="warning",
            text="writes are acknowledged though no replica has them: a failover may lose some of the last",
            fix="CONFIG SET min-replicas-to-write 1: the server then refuses writes while no replica follows",
        )


def _memory(facts: Facts) -> Iterator[Finding]:
    info = facts.info
    if info.kind != "memory" and info.policy != "noeviction":
        yield Finding(
            code="eviction",
            severity="error",
            text=f"maxmemory-policy is {info.policy}: when memory is full the server deletes tasks",
            fix="CONFIG SET maxmemory-policy noeviction, and the same in its configuration file",
        )
    if info.max_memory_bytes and info.used_memory_bytes >= MEMORY_NEAR * info.max_memory_bytes:
        full = info.used_memory_bytes >= info.max_memory_bytes
        share = round(100 * info.used_memory_bytes / info.max_memory_bytes)
        yield Finding(
            code="memory",
            severity="error" if full else "warning",
            text=f"the server uses {share} % of its maxmemory; at 100 % nothing can be enqueued",
            fix="raise maxmemory, or purge what is not needed: stemctl queues ls, stemctl dlq ls",
        )


def _buffers(facts: Facts) -> Iterator[Finding]:
    words = facts.examination.settings.get("client-output-buffer-limit", "").split()
    for kind, hard, _soft, _seconds in zip(*(words[i::4] for i in range(4)), strict=False):
        least = _BUFFERS.get(kind)
        if least is not None and hard.isdigit() and 0 < int(hard) < least:
            yield Finding(
                code="output-buffer",
                severity="warning",
                text=f"client-output-buffer-limit of {kind} clients is {hard} bytes: slow readers are cut off",
                fix=f"CONFIG SET client-output-buffer-limit '{kind} {max(least, 33_554_432)} 8388608 60', or 0 0 0",
            )


# ---------------------------------------------------------------------------------------------------------------- keys

_STRAY: Final = {
    "unknown": ("keys of a form that is none of Stem's", "see who wrote them; if nobody needs them, DEL them"),
    "orphan": (
        "unique keys whose task has ended or is gone: they hold off every new task of that key",
        "DEL them: the next task of that key is taken again",
    ),
    "endless": (
        "keys that should expire and never will: memory grows",
        "EXPIRE them (a day is enough), and report it as a bug",
    ),
}


def _keys(facts: Facts) -> Iterator[Finding]:
    seen = facts.examination
    for why, (what, fix) in _STRAY.items():
        keys = [stray.key for stray in seen.strays if stray.why == why]
        if keys:
            part = "" if seen.complete else f" (of the {seen.keys_seen} looked at: there may be more)"
            yield Finding(
                code=f"keys-{why}", severity="warning", text=f"{len(keys)} {what}: {_some(keys)}{part}", fix=fix
            )


def _left(facts: Facts) -> Iterator[Finding]:
    taken = {queue for seen in live(facts.workers) for queue in seen.heartbeat.queues}
    for one in facts.examination.overdue:
        if one.late_ms > LATE_MS:
            nobody = one.queue not in taken
            yield Finding(
                code="stuck-leases",
                severity="error",
                text=f"queue {one.queue}: the leases of {one.tasks} tasks ran out up to {span(one.late_ms)} ago, and "
                + ("no live worker takes this queue to give them back" if nobody else "no worker gave them back"),
                fix=f"start a worker: stem-worker APP --queue {one.queue}"
                if nobody
                else "look at the logs of its workers for `sweep`, and restart one",
            )
    for queue in sorted({one.queue for one in facts.examination.leftovers}):
        left = [one for one in facts.examination.leftovers if one.queue == queue]
        pending = sum(one.pending for one in left)
        yield Finding(
            code="leftover-consumers",
            severity="warning",
            text=f"queue {queue} still has {len(left)} consumers of workers that are long gone "
            f"({_some([one.worker for one in left])}), with {pending} deliveries in their names",
            fix="workers of that queue forget them within a minute: start one, or look at their logs for `sweep`",
        )


# ------------------------------------------------------------------------------------------------------------- workers


def _workers(facts: Facts) -> Iterator[Finding]:
    alive = live(facts.workers)
    if not alive:
        yield Finding(
            code="no-worker",
            severity="error",
            text="no worker is there: nothing runs",
            fix="start one: stem-worker mypkg.tasks:app",
        )
    # One that did not answer, with a beat overdue, is lost before its three intervals are over.
    silent = [seen for seen in alive if _word(facts, seen) == "lost"]
    lost = [seen.heartbeat.name for seen in (*missing(facts.workers), *silent)]
    if lost:
        yield Finding(
            code="lost-workers",
            severity="error",
            text=f"{len(lost)} workers stopped beating without a goodbye: {_some(lost)}",
            fix="look at their hosts and the ends of their logs; their tasks run elsewhere when the leases run out",
        )
    for word, text, fix in _ILL:
        names = [seen.heartbeat.name for seen in alive if _word(facts, seen) == word]
        if names:
            yield Finding(code=word, severity="error", text=f"{text}: {_some(names)}", fix=fix)
    yield from _versions(facts, alive)
    for seen in alive:
        offset = seen.heartbeat.clock_offset_ms
        if abs(offset) > SKEW_MS:
            yield Finding(
                code="clock-skew",
                severity="warning",
                text=f"the clock of {seen.heartbeat.host} ({seen.heartbeat.name}) is {span(abs(offset))} "
                f"{'behind' if offset > 0 else 'ahead of'} the server's: its logs and the times it computes are off",
                fix="synchronise it (NTP); leases and due times are safe, they go by the server's clock",
            )


_ILL: Final = (
    ("wedged", "a handler blocks the work loop", "see where it stands: stemctl inspect stack WORKER"),
    ("deaf", "beats, but answers no command", "its connection for commands is stuck: restart it"),
)


def _word(facts: Facts, seen: Seen) -> str:
    said = (facts.answers or {}).get(seen.heartbeat.id)
    return said if said is not None else diagnose(seen)


def _versions(facts: Facts, alive: Sequence[Seen]) -> Iterator[Finding]:
    others: dict[str, list[str]] = {}
    for seen in alive:
        if seen.heartbeat.version != facts.version:
            others.setdefault(seen.heartbeat.version, []).append(seen.heartbeat.name)
    for version, names in sorted(others.items()):
        yield Finding(
            code="version-skew",
            severity="warning",
            text=f"this stemctl is {facts.version}, and {len(names)} workers run Stem {version}: {_some(names)}",
            fix="finish the roll-out, or use the stemctl of their version; see docs/upgrading.md for the order",
        )


# -------------------------------------------------------------------------------------------------------------- queues


def _queues(facts: Facts) -> Iterator[Finding]:
    limit, cap = facts.limits.queue_length, facts.limits.dead_count
    for row in facts.queues:
        waiting = row.ready + row.delayed + row.retrying + row.held
        if waiting and not row.consumers:
            yield Finding(
                code="no-taker",
                severity="error",
                text=f"queue {row.name}: {waiting} tasks wait, and no live worker takes from it",
                fix=f"start a worker that does: stem-worker APP --queue {row.name}",
            )
        yield from _idle(facts, row)
        if limit and waiting >= FULL_NEAR * limit:
            full = waiting >= limit
            yield Finding(
                code="queue-full",
                severity="error" if full else "warning",
                text=f"queue {row.name}: {waiting} tasks wait, its limit is {limit}"
                + (": enqueueing is refused" if full else ""),
                fix="add workers, or raise STEM_MAX_QUEUE_LENGTH of the producers",
            )
        if row.dead >= cap:
            yield Finding(
                code="dead-full",
                severity="warning",
                text=f"queue {row.name} has {row.dead} dead letters, its cap: the oldest are thrown away for new ones",
                fix=f"see why they fail: stemctl dlq ls --queue {row.name}; then replay or purge them",
            )


def _idle(facts: Facts, row: QueueRow) -> Iterator[Finding]:
    """Where tasks are due and nobody takes them, though there are workers: a queue that is paused is meant to stand."""
    takers = [seen.heartbeat for seen in live(facts.workers) if row.name in seen.heartbeat.queues]
    drain = [beat.name for beat in takers if beat.state in ("draining", "stopping")]
    stand = {pause.target for pause in facts.pauses if pause.kind == "worker" and _stands(pause, facts.info.now_ms)}
    paused = [beat.name for beat in takers if beat.name not in drain and stand & {beat.id, beat.name}]
    if not takers or len(drain) + len(paused) < len(takers) or not row.ready or row.pause is not None:
        return
    said = [f"{word} ({_some(names)})" for word, names in (("drain", drain), ("are paused", paused)) if names]
    yield Finding(
        code="idle-takers",
        severity="error",
        text=f"queue {row.name}: {row.ready} tasks are due, and all its live workers {' or '.join(said)}",
        fix="if that was forgotten: stemctl undrain WORKER, or stemctl resume --worker WORKER; else start another one",
    )


def _stands(pause: Pause, now_ms: int) -> bool:
    return pause.until_ms is None or pause.until_ms > now_ms


def _names(facts: Facts) -> Iterator[Finding]:
    """Names that wait where every live worker of the queue said what it registers, and none has them."""
    for queue, names in sorted(facts.waiting.items()):
        takers = [seen.heartbeat.id for seen in live(facts.workers) if queue in seen.heartbeat.queues]
        if not takers or not all(worker in facts.registered for worker in takers):
            continue
        unknown = sorted(name for name in names if not any(name in facts.registered[worker] for worker in takers))
        if unknown:
            yield Finding(
                code="unregistered",
                severity="error",
                text=f"queue {queue}: tasks named {_some(unknown)} wait, and no live worker there registers them",
                fix="start workers whose code has them; after an hour each becomes a dead letter `unregistered`",
            )


def _pauses(facts: Facts) -> Iterator[Finding]:
    for pause in facts.pauses:
        age = facts.info.now_ms - pause.at_ms
        if pause.until_ms is None and age > FORGOTTEN_MS:
            who = f" by {pause.actor}" if pause.actor else ""
            why = f", because: {pause.reason}" if pause.reason else ""
            idle = pause.kind == "worker" and not any(
                addresses([pause.target], seen.heartbeat.id, seen.heartbeat.name) for seen in live(facts.workers)
            )
            yield Finding(
                code="long-pause",
                severity="warning",
                text=f"{pause.kind} {pause.target} has been paused for {span(age)}{who}, without an end{why}"
                + ("; no live worker has that name" if idle else ""),
                fix=f"if that was forgotten: stemctl resume --{pause.kind} {pause.target}",
            )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


def span(milliseconds: int) -> str:
    """Return a length of time, rounded for people: `45s`, `7m`, `3d`."""
    seconds = max(0, milliseconds) // 1000
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "m")):
        if seconds >= 2 * size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
