"""A broker for controllers whose workers are scripted: replies and heartbeats come at given moments of a fake clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from stem.contracts import Broker, Change, ChangeItem, Issued, Pause, Seen
from stem.messages.audit import AuditOutcome
from stem.messages.command import QUESTIONS, Command, Reply
from stem.messages.heartbeat import Heartbeat
from stem.messages.status import TaskStatus

START_MS = 1_700_000_000_000


def beat(name: str, **fields: Any) -> Heartbeat:
    """A heartbeat of worker `name`, whose id is the name with `-1` behind it unless given."""
    values: dict[str, Any] = {
        "id": f"{name}-1",
        "name": name,
        "started_at_ms": START_MS - 60_000,
        "host": "host",
        "pid": 1,
        "version": "0.1.0",
        "queues": ("default",),
        "concurrency": 4,
    }
    return Heartbeat(**{**values, **fields})


def seen(name: str, *, age_ms: int = 500, **fields: Any) -> Seen:
    """Worker `name` as the broker last heard it at the start."""
    return Seen(heartbeat=beat(name, **fields), at_ms=START_MS - age_ms, age_ms=age_ms)


class ScriptedBroker:
    """Plays `Broker`, `.control`, `.presence` and `.census` in one; also the clock.

    Attributes:
        script: what happens when: (seconds after the start, a reply or a worker's new state).
        issued: commands with their changes, in order; `concluded` the outcomes told to the audit, by row.
    """

    url = "scripted://"
    namespace = "stem"

    def __init__(self, workers: Sequence[Seen] = (), items: Sequence[ChangeItem] = ()) -> None:
        self.now = 0.0
        self.script: list[tuple[float, Reply | Seen]] = []
        self.issued: list[tuple[Command, Change | None]] = []
        self.concluded: list[tuple[str, AuditOutcome]] = []
        self.conclude_error: Exception | None = None
        self.errors: list[Exception] = []
        self.records: dict[str, TaskStatus] = {}
        self.paused: list[Pause] = []
        self.calls = 0
        self._items = items
        self._workers = {worker.heartbeat.id: worker for worker in workers}

    @property
    def as_broker(self) -> Broker:
        return cast(Broker, self)

    @property
    def control(self) -> ScriptedBroker:
        return self

    presence = census = control

    def monotonic(self) -> float:
        return self.now

    def wall_ms(self) -> int:
        return START_MS + round(self.now * 1000)

    def answer(
        self,
        at_s: float,
        name: str,
        stage: str = "applied",
        *,
        ok: bool = True,
        code: str = "",
        command_id: str | None = None,
        worker: str | None = None,
        data: Mapping[str, Any] | None = None,
    ) -> None:
        """Let worker `name` reply at `at_s`; nonce and command id are filled in when it is read."""
        reply = Reply(
            command_id=command_id or "",
            worker=worker or f"{name}-1",
            name=name,
            stage=stage,
            ok=ok,
            error_code=code,
            error_message="why" if code else "",
            data=data or {},
        )
        self.script.append((at_s, reply))

    def becomes(self, at_s: float, worker: Seen) -> None:
        """Let presence say something else of a worker from `at_s` on."""
        self.script.append((at_s, worker))

    async def issue(self, command: Command, change: Change | None = None) -> Issued:
        if self.errors:
            raise self.errors.pop(0)
        self.issued.append((command, change))
        items = self._items
        if not items and change is not None:
            targets = getattr(change, "targets", None) or getattr(change, "workers", None) or ()
            items = [ChangeItem(target=name, outcome="set", changed=True) for name in targets]
        audit = "" if command.type in QUESTIONS else f"row-{len(self.issued)}"
        return Issued(epoch=7, now_ms=self.wall_ms(), items=items, workers=list(self._workers.values()), audit=audit)

    async def conclude(self, audit: str, outcome: AuditOutcome) -> bool:
        if self.conclude_error is not None:
            raise self.conclude_error
        self.concluded.append((audit, outcome))
        return True

    async def replies(self, command_id: str, *, timeout_s: float) -> list[Reply]:
        self.calls += 1
        assert timeout_s > 0
        end = self.now + timeout_s
        due = sorted((entry for entry in self.script if entry[0] <= end), key=lambda entry: entry[0])
        for at_s, what in due:
            self.script.remove((at_s, what))
            if isinstance(what, Seen):
                self._workers[what.heartbeat.id] = what
                continue
            self.now = max(self.now, at_s)
            command = self.issued[-1][0]
            data = {"nonce": command.args["nonce"], **what.data} if "nonce" in command.args else what.data
            return [replace(what, command_id=what.command_id or command_id, data=data)]
        self.now = end
        return []

    async def workers(self) -> list[Seen]:
        return list(self._workers.values())

    async def statuses(self, ids: Sequence[str], *, timeline: bool = True) -> list[TaskStatus | None]:
        return [self.records.get(task_id) for task_id in ids]

    async def pauses(self) -> list[Pause]:
        return self.paused
