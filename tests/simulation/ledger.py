"""What really happened, noted outside of the system under test, and the invariants it must satisfy.

Notes come from three places: producers (what they were told), handlers (what ran), and the server's side of the network
(what was applied). Leases are modelled here a second time, from the calls alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from stem.contracts import (
    Beat,
    BeatAnswer,
    ClearPause,
    Delivery,
    Enqueued,
    Exchange,
    FinalRow,
    NewTask,
    Outcome,
    QueueRow,
    RevokeTasks,
    SetPause,
    Settlement,
)
from stem.messages.status import TaskStatus
from tests.simulation.loop import Process, ServerClock

FINAL: Final = {Outcome.SUCCEEDED, Outcome.DEAD, Outcome.REVOKED, Outcome.EXPIRED}
MADE_OF_IT: Final = {"buried": Outcome.DEAD, "revoked": Outcome.REVOKED}
"""What the broker made of an end that it did not take as it was."""
MAX_CRASHES: Final = 3


@dataclass(slots=True)
class Grant:
    """A task handed to a worker: until when the lease holds, and how it was settled."""

    token: int
    worker: str
    process: Process
    at_ms: int
    lease_ms: int
    renewed_ms: int
    deadline_ms: int
    settled: Outcome | None = None


@dataclass(slots=True)
class Run:
    """A handler's run."""

    token: int
    worker: str
    from_s: float
    until_s: float | None = None
    how: str = ""


@dataclass(slots=True)
class Task:
    """Everything known of one id."""

    acked: bool = False
    unknown: bool = False
    refused: bool = False
    applied: bool = False
    expires: bool = False
    revoked: bool = False
    grants: list[Grant] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    finals: list[Outcome] = field(default_factory=list)


@dataclass(slots=True)
class Harm:
    """A fault that was injected; `process` None: all of them."""

    what: str
    process: Process | None
    from_s: float
    until_s: float


class Ledger:
    """The notes of one run. `violations` says what must not have happened."""

    def __init__(self, clock: ServerClock) -> None:
        self._clock = clock
        self.tasks: dict[str, Task] = {}
        self.harms: list[Harm] = []
        self.violations: list[str] = []
        self.trace: list[str] = []
        self.counts: Counter[str] = Counter()
        self._commands: set[str] = set()
        self._paused: set[str] = set()
        self._confirmed: set[str] = set()
        self.queue_of: dict[str, str] = {}

    def wrong(self, what: str) -> None:
        self.violations.append(f"{self._clock.monotonic():9.3f} s  {what}")

    def note(self, what: str) -> None:
        self.trace.append(f"{self._clock.monotonic():.6f} {what}")

    def harm(self, what: str, process: Process | None, from_s: float, until_s: float) -> None:
        self.harms.append(Harm(what, process, from_s, until_s))
        self.counts[what] += 1
        self.note(f"harm {what} {'' if process is None else process.name} until {until_s:.3f}")

    def task(self, task_id: str) -> Task:
        return self.tasks.setdefault(task_id, Task())

    # ------------------------------------------------------------------------------------------------------- handlers

    def begins(self, task_id: str, token: int, worker: str) -> Run:
        """A handler begins."""
        self.note(f"begin {task_id} {token} {worker}")
        self.counts["starts"] += 1
        task = self.tasks.get(task_id)
        run = Run(token, worker, self._clock.monotonic())
        if task is None or not task.grants:
            self.wrong(f"I2 phantom: {task_id} began and was never handed out")
            return run
        if any(other.token == token for other in task.runs):
            self.wrong(f"I5 {task_id} began twice with token {token}")
        if not any(grant.token == token and grant.worker == worker for grant in task.grants):
            self.wrong(f"I5 {task_id} began with token {token} on {worker}, to which it was not handed")
        if self.queue_of.get(task_id) in self._confirmed:
            self.wrong(f"I9 {task_id} began although every worker had confirmed that its queue is paused")
        task.runs.append(run)
        return run

    def ends(self, task_id: str, run: Run, how: str) -> None:
        run.until_s, run.how = self._clock.monotonic(), how
        self.note(f"end {task_id} {run.token} {how}")

    def pause_confirmed(self, queue: str) -> None:
        """Every live worker has said so, and it was not resumed meanwhile."""
        if queue in self._paused:
            self._confirmed.add(queue)
            self.note(f"confirmed {queue}")

    # --------------------------------------------------------------------------------------------------------- server

    def tap(self, process: Process, what: str, args: tuple[Any, ...], answer: Any) -> None:
        """The server has applied a call."""
        match what:
            case "enqueue":
                self._enqueued(args[0], answer)
            case "exchange":
                self._exchanged(process, args[0], args[1], answer)
            case "adopt":
                for delivery in answer:
                    self._adopted(args[0], delivery)
            case "presence.beat":
                self._beat(args[0], answer)
            case "control.issue":
                # A repeated command changes nothing, however late it comes.
                if args[0].id not in self._commands:
                    self._commands.add(args[0].id)
                    self._issued(args[1] if len(args) > 1 else None)
            case "sweep" if answer.requeued or answer.buried:
                self.note(f"sweep {answer.requeued} {answer.buried}")
                self.counts["requeued"] += answer.requeued
                self.counts["buried"] += answer.buried
            case "reconcile" if answer[1]:
                self.wrong(f"I6 reconcile had to mend {answer[1]} records")
            case _:
                pass

    def _enqueued(self, tasks: Sequence[NewTask], answers: Sequence[Enqueued]) -> None:
        for new, answer in zip(tasks, answers, strict=True):
            self.note(f"enqueue {new.id} {answer.outcome}")
            if answer.outcome in ("queued", "scheduled"):
                task = self.task(new.id)
                if task.applied:
                    self.wrong(f"I3 {new.id} was enqueued twice")
                task.applied = True
                self.queue_of[new.id] = new.queue
            elif answer.outcome in ("exists", "revoked"):
                self.task(new.id).applied = True

    def _exchanged(self, process: Process, worker: str, settlements: Sequence[Settlement], answer: Exchange) -> None:
        for settlement, said in zip(settlements, answer.settled, strict=True):
            self._settled(worker, settlement, said)
        for delivery in answer.deliveries:
            self._granted(process, worker, delivery, answer.now_ms)

    def _settled(self, worker: str, settlement: Settlement, said: str) -> None:
        task_id, token = settlement.id, settlement.token
        self.note(f"settle {task_id} {token} {worker} {settlement.outcome.value} {said}")
        self.counts[said] += 1
        task = self.task(task_id)
        grant = task.grants[-1] if task.grants else None
        current = grant is not None and grant.token == token and grant.worker == worker
        told = said in MADE_OF_IT
        if said == "applied" or (told and (grant is None or grant.settled is None)):
            if grant is None or not current:
                self.wrong(f"I3 {worker} settled {task_id} with token {token}, which it does not hold")
                return
            if grant.settled is not None:
                self.wrong(f"I3 {task_id} was settled twice with token {token}")
            grant.settled = settlement.outcome
            outcome = MADE_OF_IT.get(said, settlement.outcome)
            if outcome in FINAL:
                task.finals.append(outcome)
                if len(task.finals) > 1:
                    self.wrong(f"I3 {task_id} has {len(task.finals)} accepted completions: {task.finals}")
        elif told or said == "already":
            before = [one for one in task.grants if one.token == token]
            if not before or before[0].settled is None:
                self.wrong(f"I3 token {token} of {task_id} was answered `already`, and was never settled")
        elif current and grant is not None:
            if grant.settled is not None:
                self.wrong(f"I3 {worker} settled {task_id} with token {token} once more, and was told that it is lost")
            self._must_be_over(task_id, grant, "its settlement was refused")

    def _granted(self, process: Process, worker: str, delivery: Delivery, now_ms: int) -> None:
        task_id, token = delivery.id, delivery.token
        self.note(f"grant {task_id} {token} {worker}")
        task = self.task(task_id)
        if not task.applied:
            self.wrong(f"I2 {task_id} was handed out and never enqueued")
        if task.finals:
            self.wrong(f"I3 {task_id} was handed out after it was {task.finals[-1].value}")
        if task.revoked:
            self.wrong(f"I8 {task_id} was handed out after it was revoked")
        if delivery.queue in self._paused:
            self.wrong(f"I9 {task_id} was handed out of a paused queue")
        if task.grants:
            last = task.grants[-1]
            if token != last.token + 1:
                self.wrong(f"I5 {task_id}: token {token} follows {last.token}")
            if last.settled is None:
                self._must_be_over(task_id, last, "it was handed out again")
                self._explain(task_id, last)
        elif token != 1:
            self.wrong(f"I5 the first token of {task_id} is {token}")
        deadline = now_ms + delivery.lease_ms
        task.grants.append(Grant(token, worker, process, now_ms, delivery.lease_ms, now_ms, deadline))

    def _adopted(self, worker: str, delivery: Delivery) -> None:
        self.note(f"adopt {delivery.id} {delivery.token} {worker}")
        self.counts["adopted"] += 1
        grants = self.task(delivery.id).grants
        if not grants or grants[-1].token != delivery.token or grants[-1].worker != worker or grants[-1].settled:
            self.wrong(f"I5 {worker} adopted {delivery.id} with token {delivery.token}, which it does not hold")
            return
        grants[-1].renewed_ms = self._clock.wall_ms()
        grants[-1].deadline_ms = grants[-1].renewed_ms + delivery.lease_ms

    def _beat(self, beat: Beat, answer: BeatAnswer) -> None:
        worker, lost = beat.heartbeat.id, set(answer.lost)
        for lease in beat.leases:
            grants = self.task(lease.id).grants
            grant = grants[-1] if grants else None
            holds = grant is not None and grant.token == lease.token and grant.worker == worker and not grant.settled
            if lease.id not in lost:
                if grant is None or not holds:
                    self.wrong(f"I5 {worker} renewed {lease.id} with token {lease.token}, which it does not hold")
                    continue
                if grant.deadline_ms < self._clock.wall_ms() - 1:
                    self.counts["renewed late"] += 1
                grant.renewed_ms, grant.deadline_ms = answer.now_ms, answer.now_ms + lease.lease_ms
            elif grant is not None and holds:
                self._must_be_over(lease.id, grant, "its renewal was refused")

    def _issued(self, change: object) -> None:
        match change:
            case RevokeTasks():
                for task_id in change.ids:
                    self.note(f"revoke {task_id}")
                    self.task(task_id).revoked = True
            case SetPause(kind="queue"):
                self.note(f"pause {change.targets}")
                self._paused.update(change.targets)
            case ClearPause(kind="queue"):
                self.note(f"resume {change.targets}")
                self._paused.difference_update(change.targets)
                self._confirmed.difference_update(change.targets)
            case _:
                pass

    def _must_be_over(self, task_id: str, grant: Grant, why: str) -> None:
        if grant.deadline_ms > self._clock.wall_ms():
            self.wrong(
                f"I5 {task_id}: {why}, though token {grant.token} of {grant.worker} held it for another "
                f"{grant.deadline_ms - self._clock.wall_ms()} ms"
            )

    def _explain(self, task_id: str, grant: Grant) -> None:
        """A lease runs out only under a fault of its holder's (I4)."""
        self.counts["lapsed"] += 1
        from_s = (grant.renewed_ms - grant.at_ms) / 1000
        born_s = self._clock.monotonic() - (self._clock.wall_ms() - grant.at_ms) / 1000
        begin_s, end_s = born_s + from_s - 1.0, born_s + (grant.deadline_ms - grant.at_ms) / 1000 + 1.0
        if not any(
            (harm.process is None or harm.process is grant.process) and harm.from_s <= end_s and harm.until_s >= begin_s
            for harm in self.harms
        ):
            self.wrong(f"I4 the lease of {task_id} on {grant.worker} ran out at {end_s - 1:.3f} s without any fault")

    # --------------------------------------------------------------------------------------------------------- the end

    def judge(
        self, statuses: dict[str, TaskStatus | None], rows: Sequence[QueueRow], history: Sequence[FinalRow]
    ) -> None:
        """Look at everything once the world has come to rest."""
        ended = Counter(row.id for row in history)
        for task_id, task in self.tasks.items():
            self._judge(task_id, task, statuses.get(task_id), ended[task_id])
        for row in rows:
            left = {"ready": row.ready, "delayed": row.delayed, "retrying": row.retrying, "held": row.held}
            left["in flight"] = row.in_flight
            if any(left.values()):
                self.wrong(f"I6 left in queue {row.name}: {left}")

    def _judge(self, task_id: str, task: Task, status: TaskStatus | None, ended: int) -> None:
        if status is None:
            if task.acked or task.applied:
                self.wrong(f"I1 lost: {task_id} was accepted and has no record")
            return
        if task.refused and not task.acked and not task.unknown:
            self.wrong(f"I2 {task_id} is {status.state.value}, and its producer was told that it was not enqueued")
        if not status.state.final:
            self.wrong(f"I1 lost: {task_id} is still {status.state.value} ({_steps(status)})")
            return
        if ended != 1:
            self.wrong(f"I3 {task_id} ended {ended} times")
        state = status.state.value
        self.counts[state] += 1
        if state == "succeeded":
            done = [run for run in task.runs if run.how == "ok" and run.token == status.token]
            if not done or status.result != f"{task_id}:{status.token}" or task.finals != [Outcome.SUCCEEDED]:
                self.wrong(f"I3 {task_id} succeeded with {status.result!r}, which is not what its last run returned")
        elif state == "revoked" and not task.revoked:
            self.wrong(f"I3 {task_id} is revoked, and nobody asked for it")
        elif state == "expired" and not task.expires:
            self.wrong(f"I3 {task_id} is expired, and never should")
        elif state == "failed" and status.reason == "poison" and status.crashes < MAX_CRASHES:
            self.wrong(f"I11 {task_id} is poison after {status.crashes} crashes")
        if status.token != len(task.grants):
            self.wrong(f"I5 {task_id} has token {status.token} after {len(task.grants)} deliveries")
        again = sum(1 for one in task.grants if one.settled in (Outcome.RETRY, Outcome.GIVE_BACK, Outcome.CRASHED))
        lapsed = sum(1 for one in task.grants if one.settled is None)
        broken = sum(1 for one in task.grants if one.settled is Outcome.CRASHED)
        if status.crashes > lapsed + broken:
            self.wrong(
                f"I11 {task_id} counts {status.crashes} crashes: {lapsed} leases ran out, {broken} workers broke"
            )
        if len(task.runs) > 1 + again + lapsed:
            self.wrong(f"I4 {task_id} began {len(task.runs)} times: {again} times sent back, {lapsed} leases ran out")


def _steps(status: TaskStatus) -> str:
    return ", ".join(f"{entry.event} {entry.worker}" for entry in status.timeline[-6:])
