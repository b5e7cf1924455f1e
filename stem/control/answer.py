"""What a controller hands back: plain frozen values that a command line prints and a dashboard shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Silent:
    """A worker that did not answer.

    Attributes:
        diagnosis: `deaf`, `lost`, `stopped` or `wedged`.
        last_heartbeat_ms: Unix milliseconds, the broker's clock; `age_ms` since then.
        waited_for: it was alive when asked; the others were lost before and are named only.
    """

    id: str
    name: str
    diagnosis: str
    last_heartbeat_ms: int
    age_ms: int = 0
    waited_for: bool = True

    def to_plain(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "name": self.name,
            "diagnosis": self.diagnosis,
            "last_heartbeat_ms": self.last_heartbeat_ms,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Pong:
    """A worker that answered a ping; `rtt_ms` from before the command was issued until its reply was read.

    One that said no (`ok` false) is alive, but does not take this sender's word: `error_code` says why.
    """

    id: str
    name: str
    rtt_ms: float
    diagnosis: str
    ok: bool = True
    error_code: str = ""

    def to_plain(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "name": self.name,
            "rtt_ms": self.rtt_ms,
            "diagnosis": self.diagnosis,
            "error": None if self.ok else self.error_code,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class PingResult:
    """Who answered a ping.

    Attributes:
        expected: live workers that were meant; `replied` of them answered in time.
        silent: those that did not, and workers lost within the hour.
        unmatched: targets that mean no worker known.
    """

    expected: int
    replied: int
    silent: Sequence[Silent]
    elapsed_ms: float
    workers: Sequence[Pong]
    unmatched: Sequence[str] = ()
    warnings: Sequence[str] = ()

    def to_plain(self) -> dict[str, Any]:
        return {
            "expected": self.expected,
            "replied": self.replied,
            "silent": [silent.to_plain() for silent in self.silent],
            "elapsed_ms": self.elapsed_ms,
            "workers": [worker.to_plain() for worker in self.workers],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One worker's answer to a question; `data` is untrusted, as it came."""

    id: str
    name: str
    ok: bool
    data: Mapping[str, Any] = field(default_factory=dict)
    error_code: str = ""
    error_message: str = ""
    rtt_ms: float = 0.0

    def to_plain(self) -> dict[str, Any]:
        error = None if self.ok else {"code": self.error_code, "message": self.error_message}
        return {
            "id": self.id,
            "name": self.name,
            "ok": self.ok,
            "data": dict(self.data),
            "error": error,
            "rtt_ms": self.rtt_ms,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """The answers to an `inspect` or `stats`; the fields are those of `PingResult`."""

    expected: int
    replied: int
    silent: Sequence[Silent]
    elapsed_ms: float
    workers: Sequence[Answer]
    unmatched: Sequence[str] = ()
    warnings: Sequence[str] = ()

    @property
    def failed(self) -> int:
        return sum(not worker.ok for worker in self.workers)

    def to_plain(self) -> dict[str, Any]:
        return {
            "expected": self.expected,
            "replied": self.replied,
            "failed": self.failed,
            "silent": [silent.to_plain() for silent in self.silent],
            "elapsed_ms": self.elapsed_ms,
            "workers": [worker.to_plain() for worker in self.workers],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandItem:
    """What became of one target of a command.

    Attributes:
        target: a task id, queue, task name or worker, as the command means it.
        worker: the id of the worker concerned, if there is one.
        stage: the furthest one reached: empty (nothing happened), `accepted` (stored), `applied`, `effect`.
        changed: the stored state is another one than before.
        outcome: of a revoke `revoked running stored already final`, or how a running task ended; else `set cleared
            already`. Of a dry run: what would happen.
        error: why it failed; empty if it did not.
    """

    target: str
    worker: str = ""
    stage: str = ""
    changed: bool = False
    outcome: str = ""
    error: str = ""

    def to_plain(self) -> dict[str, Any]:
        return {
            "target": self.target,
            "worker": self.worker,
            "stage": self.stage,
            "changed": self.changed,
            "outcome": self.outcome,
            "error": self.error or None,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmation:
    """How one worker took a command.

    Attributes:
        stage: the furthest one it reached; empty if it refused at once, or said goodbye instead.
        error: why it refused, untrusted text; empty if it did not.
        rtt_ms: until its first answer.
    """

    id: str
    name: str
    stage: str = ""
    error: str = ""
    rtt_ms: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandResult:
    """What a command achieved by the time it returned.

    Attributes:
        epoch: of the desired state that holds it; 0 if nothing was stored.
        expected: live workers that had to answer; `applied` of them reached the stage asked for, `failed` said no.
        silent: expected ones that never answered, and workers lost before that the command concerns too.
        items: one per target, and one more for each worker that failed.
        workers: each one that answered, or said goodbye meanwhile.
        unmatched: targets that mean nothing known.
        waited_out: the effect was waited for and somebody had not reached it by the deadline.
        dry_run: nothing was sent: `items` say what would happen.
    """

    command_id: str
    epoch: int = 0
    expected: int = 0
    applied: int = 0
    failed: int = 0
    silent: Sequence[Silent] = ()
    items: Sequence[CommandItem] = ()
    workers: Sequence[Confirmation] = ()
    warnings: Sequence[str] = ()
    elapsed_ms: float = 0.0
    unmatched: Sequence[str] = ()
    waited_out: bool = False
    dry_run: bool = False

    def to_plain(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "expected": self.expected,
            "applied": self.applied,
            "failed": self.failed,
            "silent": [silent.to_plain() for silent in self.silent],
            "items": [item.to_plain() for item in self.items],
            "elapsed_ms": self.elapsed_ms,
            "dry_run": self.dry_run,
        }
