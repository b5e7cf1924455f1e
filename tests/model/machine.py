"""The state machine: every rule makes a call on the broker and on the model, and compares the answers.

A rule draws what it needs before it calls anything: an example that is cut short leaves both sides alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from stem.contracts import (
    Beat,
    Change,
    ClearPause,
    Delivery,
    FetchRequest,
    NewTask,
    Outcome,
    PauseKind,
    RevokeTasks,
    SetPause,
    Settlement,
)
from stem.messages.codec import pack
from stem.messages.command import Command
from stem.testing.case import Hand, lease, settlement
from tests.model.comparison import QUEUES, WORKERS, Comparison, Worker, agree
from tests.model.draws import deliveries, ends, kinds, make_task, orders, places, queues, several_ends, targets, workers
from tests.model.model import LATER, Record

LEASE_MS: Final = 20_000
BEAT_MS: Final = 2_000


def _end(delivery: Delivery, *, outcome: Outcome, **set_: Any) -> Settlement:
    if outcome is Outcome.SUCCEEDED:
        set_["result"] = pack(delivery.token)
    return settlement(delivery, outcome, **set_)


class Calls(Comparison):
    """One call a rule, on a clock that only `time_passes` moves."""

    # ------------------------------------------------------------------------------------------------------- producing

    @initialize(count=st.sampled_from([0, 1, 3, 10]), taken=st.booleans(), watched=st.sampled_from([True, True, False]))
    def begin(self, count: int, taken: bool, watched: bool) -> None:
        """Some tasks are there, or more than a queue takes, and perhaps with a worker already."""
        self.watched = watched
        more: list[dict[str, Any]] = [{}, {"lease_ms": 3_000}, {"delay_ms": 500}]
        self.enqueue([{"queue": QUEUES[at % 2], **more[at % 3]} for at in range(count)])
        if taken:
            self.fetch("ann", QUEUES, 100, False)

    @rule(batch=st.lists(kinds, min_size=1, max_size=3))
    def enqueue(self, batch: Sequence[Mapping[str, Any]]) -> None:
        """New tasks; one of them may have been revoked before."""
        first = len(self.ids)
        tasks = [make_task(f"t-{first + number}", **kind) for number, kind in enumerate(batch)]
        self.ids += [new.id for new in tasks]
        self._enqueue(tasks)

    @precondition(lambda self: self.ids)
    @rule(back=places, version=st.sampled_from([1, 2]), kind=kinds)
    def enqueue_again(self, back: int, version: int, kind: Mapping[str, Any]) -> None:
        """An id that was used before, with the body it had or another one."""
        self._enqueue([make_task(self.pick(back, self.ids), version=version, **kind)])

    def _enqueue(self, batch: Sequence[NewTask]) -> None:
        def call() -> None:
            for new, answer in zip(batch, self.run(self.broker.enqueue(batch)), strict=True):
                agree((answer.id, answer.outcome), self.model.enqueue(new), new.id)
                self.seen[f"enqueue: {answer.outcome}"] += 1

        self.do(call)

    # --------------------------------------------------------------------------------------------------------- working

    @rule(worker=workers, wanted=orders, count=st.sampled_from([1, 2, 100]), lost=st.sampled_from([False, False, True]))
    def fetch(self, worker: str, wanted: Sequence[str], count: int, lost: bool) -> None:
        """A worker that may be behind the fence asks for deliveries, and may never see them."""
        model, hand = self.model, self.workers[worker]
        if hand.id not in model.beats:
            self.beat(worker, False, None)  # before it takes anything a worker says who it is
        request = FetchRequest(queues=wanted, count=count, lease_ms=LEASE_MS, epoch=hand.epoch)
        answer = self.run(self.broker.exchange(hand.id, [], request))

        agree(answer.stale, hand.epoch < model.fence, "stale")
        if answer.stale or model.paused("worker", worker):
            agree(len(answer.deliveries), 0, "deliveries")
            self.seen["fetch: stale" if answer.stale else "fetch: worker paused"] += 1
            return
        wanted = [queue for queue in wanted if not model.paused("queue", queue)]
        model.promote(wanted)
        may = [task_id for queue in wanted for task_id in model.startable(queue)]
        news = {task_id: model.tasks[task_id].new for task_id in may}
        best = {task_id: (wanted.index(new.queue), -new.priority) for task_id, new in news.items()}
        for delivery in answer.deliveries:
            assert delivery.id in may, f"{delivery.id} must not start"
            assert not (model.suspect(delivery.id) and model.has_suspect(hand.id)), f"{delivery.id} may poison another"
            assert delivery.token > self.tokens[delivery.id], "a token came twice"
            may.remove(delivery.id)
            self.tokens[delivery.id] = delivery.token
            self._same(delivery, model.start(delivery.id, hand.id, LEASE_MS))
            self.given.append((hand.id, delivery))
            hand.held |= {} if lost else {delivery.id: delivery}
            self.seen["started"] += 1
        for task_id in self._shown_as("scheduled", may):
            agree(True, model.suspect(task_id) and model.has_suspect(hand.id), f"{task_id} was put off")
            model.put_off(task_id)
            may.remove(task_id)
            del best[task_id]
            self.seen["put off"] += 1
        agree([best[one.id] for one in answer.deliveries], sorted(best.values())[:count], "deliveries")
        assert answer.more or not may
        late = [each for queue in wanted for each, one in model.of(queue).items() if model.expired(one)]
        late = [each for each in late if model.tasks[each].state == "queued"]
        expired = self._shown_as("expired", late)
        agree(sorted(one.id for one in answer.expired), sorted(expired), "expired")
        for task_id in expired:
            model.end(task_id, "expired")
            self.seen["expired"] += 1

    def _shown_as(self, state: str, ids: Sequence[str]) -> list[str]:
        """Return those that are in this state: a fetch moves what must not start, as far as it looks."""
        shown = zip(ids, self.run(self.broker.statuses(ids)), strict=True) if ids else ()
        return [task_id for task_id, status in shown if status is not None and status.state.value == state]

    def _same(self, delivery: Delivery, record: Record) -> None:
        said = (delivery.token, delivery.attempt, delivery.crashes, delivery.lease_ms, delivery.give_backs)
        agree(said, (record.token, record.attempt, record.crashes, record.lease_ms, record.give_backs), delivery.id)
        new = record.new
        agree((delivery.task, delivery.queue, delivery.body), (new.task, new.queue, new.body), delivery.id)

    @rule(worker=workers, how=several_ends, twice=st.booleans())
    def work(self, worker: str, how: Sequence[Mapping[str, Any]], twice: bool) -> None:
        """A worker that is up to date takes all there is and ends it; perhaps it never hears that it has."""
        self.take_all(worker)
        self.end_all(worker, how)
        if twice:
            self.the_reply_was_lost()

    def take_all(self, worker: str) -> None:
        self.catch_up(worker)
        self.fetch(worker, QUEUES, 100, False)

    def end_all(self, worker: str, how: Sequence[Mapping[str, Any]]) -> None:
        """End all that the worker believes to hold, in turn as `how` says."""
        held = [one for one in self.workers[worker].held.values() if one.id not in self.model.dropped]
        self._settle(self.workers[worker].id, [_end(one, **how[at % len(how)]) for at, one in enumerate(held)])

    @precondition(lambda self: self.given)
    @rule(which=deliveries, how=ends, by=st.sampled_from(["its worker", "the owner", *WORKERS]))
    def settle(self, which: tuple[str, int], how: Mapping[str, Any], by: str) -> None:
        """End any delivery that was ever made, as its worker, as who has the task now, or as another."""
        worker, delivery = self._delivery(which)
        if delivery.id not in self.model.dropped:
            owner = self.model.tasks[delivery.id].owner or worker
            known = {"its worker": worker, "the owner": owner, **{name: one.id for name, one in self.workers.items()}}
            self._settle(known[by], [_end(delivery, **how)])

    def _delivery(self, which: tuple[str, int]) -> tuple[str, Delivery]:
        """Return a delivery with its worker's id: one that holds, one whose task was started again since, or any."""
        apt = [(worker, one) for worker, one in self.given if which[0] in ("any", self._age(one))] or self.given
        return apt[-1 - which[1] % len(apt)]

    def _age(self, delivery: Delivery) -> str:
        record = self.model.tasks.get(delivery.id)
        if record is None or record.token != delivery.token:
            return "old"
        return "running" if record.state == "running" else "ended"

    def _settle(self, worker_id: str, ends: Sequence[Settlement]) -> None:
        def call() -> None:
            answers = list(self.run(self.broker.exchange(worker_id, ends, None)).settled)
            agree(answers, [self.model.settle(worker_id, end) for end in ends])
            self.seen.update(f"settle: {answer}" for answer in answers)
            self.seen.update(
                end.outcome for end, answer in zip(ends, answers, strict=True) if answer not in ("already", "lost")
            )

        self.do(call)
        for hand in self.workers.values():
            for end in ends:
                if hand.id == worker_id:
                    hand.held.pop(end.id, None)

    @rule(worker=workers, stopped=st.sampled_from([False, False, False, False, True]), stray=st.none() | deliveries)
    def beat(self, worker: str, stopped: bool, stray: tuple[str, int] | None) -> None:
        """Renew what the worker believes to hold, and perhaps a delivery that may be anybody's."""
        hand, model = self.workers[worker], self.model
        leases = {delivery.id: lease(delivery) for delivery in hand.held.values()}
        if stray is not None and self.given:
            _, delivery = self._delivery(stray)
            leases[delivery.id] = lease(delivery)

        def call() -> None:
            answer = self.run(self.broker.presence.beat(self._beat(worker, stopped, leases=list(leases.values()))))
            model.beat(hand.id, stopped=stopped)
            kept = {one.id for one in leases.values() if model.renew(one.id, one.token, hand.id, one.lease_ms)}
            agree(set(answer.lost), set(leases) - kept, "lost")
            agree(set(answer.revoked), {each for each in kept if model.tasks[each].revoking}, "revoked")
            agree(answer.epoch, model.epoch, "epoch")
            self.seen["lease kept"] += len(kept)
            self.seen["lease lost"] += len(answer.lost)
            for task_id in answer.lost:
                hand.held.pop(task_id, None)

        self.do(call)

    def _beat(self, worker: str, stopped: bool = False, **set_: Any) -> Beat:
        hand = Hand(broker=self.broker, id=self.workers[worker].id, name=worker, queues=QUEUES)
        return Beat(heartbeat=hand.heartbeat(**({"state": "stopped"} if stopped else {})), **set_)

    @precondition(lambda self: self.given)
    @rule(which=deliveries, by=st.sampled_from(["its worker", *WORKERS]))
    def extend(self, which: tuple[str, int], by: str) -> None:
        worker, delivery = self._delivery(which)
        worker_id = self.workers[by].id if by in self.workers else worker

        def call() -> None:
            answer = self.run(self.broker.extend(worker_id, lease(delivery, 9_000)))
            agree(answer, self.model.renew(delivery.id, delivery.token, worker_id, 9_000))

        self.do(call)

    @rule(worker=workers)
    def adopt(self, worker: str) -> None:
        """Ask for what is owned and not known: deliveries whose reply was lost."""
        hand, model = self.workers[worker], self.model
        found = {one.id: one for one in self.run(self.broker.adopt(hand.id, QUEUES, list(hand.held)))}

        unknown = {
            each: one
            for each, one in model.tasks.items()
            if one.state == "running" and one.owner == hand.id and each not in hand.held
        }
        for record in unknown.values():
            if record.revoking:
                record.deadline = model.now
        owned = {each for each, one in unknown.items() if not one.revoking and model.now - one.started <= one.lease_ms}
        agree(set(found), owned, "adopted")
        for task_id, delivery in found.items():
            record = model.tasks[task_id]
            self._same(delivery, record)
            record.deadline = model.now + record.lease_ms
            self.seen["adopted"] += 1
        hand.held |= found

    @rule(worker=workers)
    def crash(self, worker: str) -> None:
        """The process is gone, with all that it knew; another of its name starts."""
        name, _, number = self.workers[worker].id.rpartition("-")
        self.workers[worker] = Worker(f"{name}-{int(number) + 1}")

    def sweep_all(self) -> None:
        for queue in QUEUES:
            self.sweep(queue)

    @rule(queue=queues)
    def sweep(self, queue: str) -> None:
        def call() -> None:
            swept = self.run(self.broker.sweep([queue]))
            agree((swept.requeued, swept.buried), self.model.sweep(queue), f"swept {queue}")
            self.seen["swept: requeued"] += swept.requeued
            self.seen["swept: buried"] += swept.buried
            self.seen["swept: outage"] += swept.skipped == "outage"

        self.do(call)

    @rule(seconds=st.sampled_from([0.1, 0.6, 1.5, 4.0, 7.0, 25.0]), alive=st.frozensets(workers))
    def time_passes(self, seconds: float, alive: frozenset[str]) -> None:
        """Move the clock. Who is `alive` beats meanwhile, renewing nothing."""
        left_ms = round(seconds * 1_000)
        while left_ms > 0:
            pass_ms = min(left_ms, BEAT_MS)
            left_ms -= pass_ms
            self.run(self.world.advance(pass_ms))
            self.model.now += pass_ms
            for worker in sorted(alive):
                self.run(self.broker.presence.beat(self._beat(worker)))
                self.model.beat(self.workers[worker].id)
        agree(self.world.now_ms(), self.model.now, "now")

    # ------------------------------------------------------------------------------------------------------- operating

    def issue(self, kind: str, change: Change, wanted: tuple[str, str, bool]) -> None:
        """Issue a command and compare what it did to its target."""
        self.model.epoch += 1
        if not isinstance(change, RevokeTasks):
            self.model.fence = self.model.epoch
        command = Command(id=f"c-{len(self.commands)}", type=kind, actor="ada")
        self.commands.append((command, change, [wanted], self.model.epoch))
        self.seen[f"{kind}: {wanted[1]}"] += 1
        number = len(self.commands) - 1
        self.do(lambda: self._send(number))

    def _send(self, number: int) -> None:
        command, change, wanted, epoch = self.commands[number]
        issued = self.run(self.broker.control.issue(command, change))
        agree(issued.epoch, epoch, "epoch")
        agree([(item.target, item.outcome, item.changed) for item in issued.items], wanted)

    @rule(back=places, which=st.sampled_from(["new", "known", "waiting", "running"]))
    def revoke_one(self, back: int, which: str) -> None:
        self.revoke(back, which)

    def revoke(self, back: int, which: str) -> str:
        """Revoke a task and return its id."""
        apt = {"new": [], "known": self.ids, "waiting": self.in_state("queued", *LATER)}
        task_id = self.pick(back, apt.get(which, self.in_state("running")))
        self.issue("revoke", RevokeTasks(ids=[task_id]), (task_id, *self.model.revoke(task_id)))
        return task_id

    @rule(what=targets, for_ms=st.sampled_from([None, None, 1_000]))
    def pause(self, what: tuple[PauseKind, str], for_ms: int | None) -> None:
        model, kind = self.model, what[0]
        endless = model.pauses.get(what) == float("inf")
        changed = for_ms is not None or not endless
        model.pauses[what] = float("inf") if for_ms is None else model.now + for_ms
        outcome = "set" if changed else "already"
        self.issue("pause", SetPause(kind=kind, targets=[what[1]], for_ms=for_ms), (what[1], outcome, changed))

    @rule(what=targets)
    def resume(self, what: tuple[PauseKind, str]) -> None:
        was = self.model.paused(*what)
        self.model.pauses.pop(what, None)
        outcome = "cleared" if was else "already"
        self.issue("resume", ClearPause(kind=what[0], targets=[what[1]]), (what[1], outcome, was))

    @precondition(lambda self: self.commands)
    @rule(back=places)
    def an_old_command_comes_again(self, back: int) -> None:
        """It does nothing more, and answers the same."""
        self._send(-1 - back % len(self.commands))

    @rule(worker=workers)
    def catch_up(self, worker: str) -> None:
        """The worker reads the control log: every command since it last did, and what is paused now."""
        hand, model = self.workers[worker], self.model
        desired = self.run(self.broker.control.read(hand.epoch))
        agree((desired.epoch, desired.fence, desired.reset), (model.epoch, model.fence, False))
        agree([logged.epoch for logged in desired.log], list(range(hand.epoch + 1, model.epoch + 1)), "the log")
        standing = {target for target in model.pauses if model.paused(*target)}
        agree({(pause.kind, pause.target) for pause in desired.pauses}, standing, "pauses")
        hand.epoch = desired.epoch

    @rule(back=places, apt=st.booleans(), now=st.booleans())
    def run_again(self, back: int, apt: bool, now: bool) -> None:
        """Replay a dead letter, or make whatever it is due now."""
        likely = self.in_state("failed", *LATER) if now else self.in_state("failed")
        self.run_now_or_again(self.pick(back, likely if apt else self.ids), now=now)

    def run_now_or_again(self, task_id: str, *, now: bool) -> None:
        def call() -> None:
            if now:
                answer, wanted = self.run(self.broker.retry_now([task_id])), self.model.retry_now(task_id)
            else:
                answer, wanted = self.run(self.broker.replay([task_id])), self.model.replay(task_id)
            agree(answer, {task_id: wanted})
            self.seen[f"run again: {wanted}"] += 1

        self.do(call)

    @precondition(lambda self: self.in_state("queued", *LATER))
    @rule(queue=queues)
    def purge(self, queue: str) -> None:
        def call() -> None:
            gone = self.run(self.broker.purge(queue, "waiting"))
            agree(gone, self.model.purge_waiting(queue))
            self.seen["purged"] += gone

        self.do(call)

    @precondition(lambda self: self.in_state("failed"))
    @rule(back=places, one=st.booleans())
    def drop_dead(self, back: int, one: bool) -> None:
        """Remove one dead letter, or all of its queue."""
        task_id = self.pick(back, self.in_state("failed"))
        queue = self.model.tasks[task_id].new.queue
        dead = [task_id] if one else [each for each, record in self.model.of(queue).items() if record.dead]

        def call() -> None:
            discarding = self.broker.discard(queue, dead) if one else self.broker.purge(queue, "dead")
            gone = self.run(discarding)
            agree(gone, self.model.drop_dead(dead))
            self.seen["discarded" if one else "dead letters purged"] += gone

        self.do(call)

    @precondition(lambda self: self.model.tasks)
    @rule()
    def reconcile(self) -> None:
        """There is never anything to mend."""
        cursor = ""
        while cursor != "0":
            cursor, repaired = self.run(self.broker.reconcile(cursor or "0"))
            agree(repaired, 0, "repaired")

    @precondition(lambda self: self.last is not None)
    @rule()
    def the_reply_was_lost(self) -> None:
        """Whoever made the last call never saw the answer, and makes it again."""
        assert self.last is not None
        self.last()
