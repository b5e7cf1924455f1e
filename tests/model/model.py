"""A broker as a dict: what each call must answer and leave behind, without any of an adapter's means.

The model knows no order within a priority: which of several equal tasks comes first is the contract suite's business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from stem.contracts import NewTask, Outcome, Settlement

LIMIT: Final = 4
"""How many may wait in a queue: few, so that the limit is met."""

LOST_MS: Final = 6_000
MAX_CRASHES: Final = 3
FINAL: Final = ("succeeded", "failed", "revoked", "expired")
LATER: Final = ("scheduled", "retrying")
AGAIN: Final = (Outcome.RETRY, Outcome.GIVE_BACK, Outcome.CRASHED)
REVOCABLE: Final = (*AGAIN, Outcome.DEAD)


@dataclass(slots=True)
class Record:
    """One task. `settled` is the last token that ended a delivery of it, `settled_by` the last four.

    `ends` is how often it became final; `poison`: the last crash that a worker settled was the one too many.
    """

    new: NewTask
    state: str = "queued"
    attempt: int = 0
    crashes: int = 0
    token: int = 0
    settled: int = 0
    settled_by: tuple[int, ...] = ()
    owner: str = ""
    lease_ms: int = 0
    deadline: int = 0
    started: int = 0
    due: int = 0
    expires: int | None = None
    revoking: bool = False
    give_backs: int = 0
    dead: bool = False
    poison: bool = False
    ends: int = 0
    purged: bool = False


class Model:
    """The broker. `now` is set by whoever moves the clock."""

    def __init__(self) -> None:
        self.now = 0
        self.tasks: dict[str, Record] = {}
        self.tombs: set[str] = set()
        self.dropped: set[str] = set()
        self.unique: dict[tuple[str, str | None], str] = {}
        self.pauses: dict[tuple[str, str], float] = {}
        self.epoch = self.fence = 0
        self.beats: dict[str, int] = {}
        self.stopped: set[str] = set()
        self.gap_ended = -LOST_MS
        self.swept: dict[str, int] = {}

    def enqueue(self, new: NewTask) -> tuple[str, str]:
        known, key = self.tasks.get(new.id), (new.task, new.unique_key)
        if known is not None:
            return new.id, "exists" if known.purged or known.new.body == new.body else "conflict"
        if new.id in self.tombs:
            self.tombs.remove(new.id)
            self.tasks[new.id] = Record(new, state="revoked", ends=1)
            return new.id, "revoked"
        if self.held(key):
            return self.unique[key], "duplicate"
        if len(self.waiting(new.queue)) >= LIMIT:
            return new.id, "full"
        record = self.tasks[new.id] = Record(new, state="scheduled" if new.delay_ms else "queued")
        record.due = self.now + (new.delay_ms or 0)
        record.expires = None if new.expires_in_ms is None else self.now + new.expires_in_ms
        if new.unique_key is not None:
            self.unique[key] = new.id
        return new.id, record.state

    def held(self, key: tuple[str, str | None]) -> bool:
        """By a task that runs, or that waits and may still start."""
        holder = self.tasks.get(self.unique.get(key, ""))
        return holder is not None and (holder.state == "running" or not self.expired(holder))

    def waiting(self, queue: str) -> list[str]:
        return [id_ for id_, one in self.of(queue).items() if one.state in ("queued", *LATER)]

    def of(self, queue: str) -> dict[str, Record]:
        return {id_: one for id_, one in self.tasks.items() if one.new.queue == queue}

    def paused(self, kind: str, target: str) -> bool:
        return self.pauses.get((kind, target), 0) > self.now

    def promote(self, queues: Sequence[str]) -> None:
        """What is due is ready."""
        for record in self.tasks.values():
            if record.new.queue in queues and record.state in LATER and record.due <= self.now:
                record.state = "queued"

    def startable(self, queue: str) -> list[str]:
        return [
            id_
            for id_, one in self.of(queue).items()
            if one.state == "queued" and not self.expired(one) and not self.paused("task", one.new.task)
        ]

    def expired(self, record: Record) -> bool:
        return record.expires is not None and record.expires <= self.now

    def suspect(self, task_id: str) -> bool:
        """One more crash would bury it."""
        return self.tasks[task_id].crashes >= MAX_CRASHES - 1

    def has_suspect(self, worker: str) -> bool:
        return any(one.owner == worker and self.suspect(task_id) for task_id, one in self.tasks.items())

    def put_off(self, task_id: str) -> None:
        record = self.tasks[task_id]
        record.state, record.due = "scheduled", self.now + 1_000

    def start(self, task_id: str, worker: str, lease_ms: int) -> Record:
        record = self.tasks[task_id]
        record.state, record.owner, record.token = "running", worker, record.token + 1
        record.lease_ms = record.new.lease_ms or lease_ms
        record.started, record.deadline = self.now, self.now + record.lease_ms
        return record

    def holds(self, task_id: str, token: int, worker: str) -> bool:
        record = self.tasks.get(task_id)
        return record is not None and (record.state, record.token, record.owner) == ("running", token, worker)

    def settle(self, worker: str, settlement: Settlement) -> str:
        record, outcome = self.tasks[settlement.id], settlement.outcome
        if not self.holds(settlement.id, settlement.token, worker):
            if settlement.token not in record.settled_by:
                return "lost"
            if settlement.token != record.token or outcome not in REVOCABLE:
                return "already"
            if record.revoking and record.state == "revoked":
                return "revoked"
            poison = outcome is Outcome.CRASHED and record.poison
            return "buried" if poison and record.state == "failed" else "already"
        record.settled, record.settled_by = settlement.token, (settlement.token, *record.settled_by[:3])
        if record.revoking and outcome in REVOCABLE:
            outcome = Outcome.REVOKED
        if outcome is Outcome.CRASHED:
            record.crashes += 1
            record.poison = record.crashes >= MAX_CRASHES
            outcome = Outcome.DEAD if record.poison else outcome
        if outcome not in AGAIN:
            self.end(settlement.id, "failed" if outcome is Outcome.DEAD else outcome.value)
            if outcome is settlement.outcome:
                return "applied"
            return "revoked" if outcome is Outcome.REVOKED else "buried"
        if outcome is Outcome.RETRY:
            record.attempt += 1
        unknown = outcome is Outcome.GIVE_BACK and settlement.unknown
        record.give_backs = record.give_backs + 1 if unknown else 0
        later = "retrying" if outcome is Outcome.RETRY else "scheduled"
        record.state, record.owner = later if settlement.delay_ms else "queued", ""
        record.due = self.now + settlement.delay_ms
        return "applied"

    def end(self, task_id: str, state: str) -> None:
        record = self.tasks[task_id]
        record.state, record.owner, record.dead, record.ends = state, "", state == "failed", record.ends + 1
        if self.unique.get(key := (record.new.task, record.new.unique_key)) == task_id:
            del self.unique[key]

    def renew(self, task_id: str, token: int, worker: str, lease_ms: int) -> bool:
        if held := self.holds(task_id, token, worker):
            self.tasks[task_id].deadline = self.now + lease_ms
        return held

    def silent(self) -> bool:
        """Nobody at all has beaten for as long as makes one worker lost."""
        return bool(self.beats) and self.now - max(self.beats.values()) > LOST_MS

    def beat(self, worker: str, *, stopped: bool = False) -> None:
        self.gap_ended = self.now if self.silent() else self.gap_ended
        self.beats[worker] = self.now
        self.stopped |= {worker} if stopped else set()

    def sweep(self, queue: str) -> tuple[int, int]:
        """Return how many went back and how many were buried."""
        if self.silent() or self.now - self.gap_ended < LOST_MS * 2 / 3:
            return 0, 0
        if self.now - self.swept.get(queue, -LOST_MS) < LOST_MS / 6:
            return 0, 0
        self.swept[queue], states = self.now, []
        for task_id, record in self.of(queue).items():
            if record.state == "running" and record.deadline <= self.now:
                here = self.now - self.beats.get(record.owner, -LOST_MS) <= LOST_MS and record.owner not in self.stopped
                record.crashes += not here
                if record.revoking:
                    self.end(task_id, "revoked")
                elif not here and record.crashes >= MAX_CRASHES:
                    self.end(task_id, "failed")
                else:
                    record.state, record.owner, record.give_backs = "queued", "", 0
                states.append(record.state)
        return states.count("queued"), states.count("failed")

    def revoke(self, task_id: str) -> tuple[str, bool]:
        """Return the outcome, and whether something changed."""
        record = self.tasks.get(task_id)
        if record is None:
            new, self.tombs = task_id not in self.tombs, self.tombs | {task_id}
            return ("stored", True) if new else ("already", False)
        if record.state in FINAL:
            return "already" if record.state == "revoked" else "final", False
        if record.state == "running":
            new, record.revoking = not record.revoking, True
            return "running", new
        self.end(task_id, "revoked")
        return "revoked", True

    def replay(self, task_id: str) -> str:
        record = self.tasks.get(task_id)
        if record is None:
            return "unknown"
        if not record.dead:
            return "not-dead"
        if self.held(key := (record.new.task, record.new.unique_key)):
            return "duplicate"
        record.state, record.attempt, record.crashes, record.give_backs = "queued", 0, 0, 0
        record.expires, record.revoking, record.dead = None, False, False
        if record.new.unique_key is not None:
            self.unique[key] = task_id
        return "queued"

    def retry_now(self, task_id: str) -> str:
        record = self.tasks.get(task_id)
        if record is not None and record.state in LATER:
            record.state = "queued"
            return "queued"
        answer = self.replay(task_id)
        if record is None or answer != "not-dead":
            return answer
        return "final" if record.state in FINAL else "already"

    def purge_waiting(self, queue: str) -> int:
        doomed = self.waiting(queue)
        for task_id in doomed:
            self.end(task_id, "revoked")
            self.tasks[task_id].purged = True  # its body is gone: nothing to compare with
        return len(doomed)

    def drop_dead(self, ids: Sequence[str]) -> int:
        """Forget dead letters. Their records go in a minute; what they say until then is nobody's business."""
        dead = {task_id for task_id in ids if task_id in self.tasks and self.tasks[task_id].dead}
        self.dropped |= dead
        for task_id in dead:
            del self.tasks[task_id]
        return len(dead)
