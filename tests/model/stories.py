"""Calls that belong together, as rules of their own: what single calls drawn at random would hardly ever come to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import rule

from stem.contracts import Outcome, PauseKind
from tests.model.comparison import QUEUES, WORKERS, agree
from tests.model.draws import ends, kinds, several_ends, targets, workers
from tests.model.machine import BEAT_MS, Calls
from tests.model.model import LATER


class BrokerMachine(Calls):
    """The whole machine."""

    @rule(worker=workers, back=st.sampled_from([Outcome.GIVE_BACK, Outcome.RETRY]), how=ends)
    def start_again(self, worker: str, back: Outcome, how: Mapping[str, Any]) -> None:
        """What a worker has for the second time is not ended by its first token, nor by another worker."""
        self.take_all(worker)
        self.end_all(worker, [{"outcome": back}])
        self.take_all(worker)
        if self.given:
            self.beat(worker, False, ("old", 0))
            self.settle(("old", 0), how, "the owner")
            self.settle(("running", 0), how, "ann")
            self.settle(("running", 0), how, "bob")

    @rule(
        worker=workers,
        back=st.sampled_from([Outcome.GIVE_BACK, Outcome.RETRY]),
        then=st.sampled_from(["wait", "retry now", "revoke", "purge"]),
    )
    def put_off(self, worker: str, back: Outcome, then: str) -> None:
        """What waits for its time can be made due, revoked and purged; the rest comes when its time has come."""
        self.take_all(worker)
        self.end_all(worker, [{"outcome": back, "delay_ms": 700}])
        if then == "retry now":
            self.run_now_or_again(self.pick(0, self.in_state(*LATER)), now=True)
        elif then == "revoke":
            self.revoke(0, "waiting")
        elif then == "purge":
            self.purge("alpha")
        self.the_broker_is_as_the_model_says()
        self.time_passes(1.5, frozenset(WORKERS))
        self.take_all(worker)

    @rule(worker=workers, kind=kinds, how=several_ends)
    def bury(self, worker: str, kind: Mapping[str, Any], how: Sequence[Mapping[str, Any]]) -> None:
        """A dead letter that is replayed starts anew: it does not expire, and nobody has asked to revoke it."""
        self.enqueue([{**kind, "delay_ms": 0}])
        self.take_all(worker)
        self.end_all(worker, [{"outcome": Outcome.DEAD}])
        self.time_passes(1.5, frozenset(WORKERS))
        self.run_now_or_again(self.pick(0, self.in_state("failed")), now=False)
        self.take_all(worker)
        self.end_all(worker, how)

    @rule(worker=workers, waits=st.booleans(), how=several_ends)
    def lose_deliveries(self, worker: str, waits: bool, how: Sequence[Mapping[str, Any]]) -> None:
        """A worker never sees what it was handed until it asks, perhaps late; from then on it has the whole lease."""
        self.catch_up(worker)
        self.fetch(worker, QUEUES, 3, True)
        if waits:
            self.time_passes(15.0, frozenset(WORKERS))
        self.adopt(worker)
        if waits:
            self.time_passes(7.0, frozenset(WORKERS))
            self.sweep_all()
        self.end_all(worker, how)

    @rule(
        worker=workers,
        how=st.sampled_from(["crash", "goodbye", "stuck", "all silent"]),
        seconds=st.sampled_from([4.0, 25.0]),
        times=st.sampled_from([1, 3]),
    )
    def lose_leases(self, worker: str, how: str, seconds: float, times: int) -> None:
        """A worker takes all there is and renews nothing until it is taken away.

        It crashes, says goodbye, or only does not renew; or nobody can reach the broker for so long.
        """
        for _ in range(times):
            self.take_all(worker)
            if how == "goodbye":
                self.beat(worker, True, None)
            beating = {"all silent": (), "crash": set(WORKERS) - {worker}}.get(how, WORKERS)
            self.time_passes(seconds, frozenset(beating))
            if how == "crash":
                self.crash(worker)
            for _ in range(2 if how != "all silent" else 4):
                self.sweep_all()
                self.time_passes(1.5, frozenset(WORKERS))

    @rule(worker=workers, how=several_ends, buried=st.booleans())
    def revoke_at_work(self, worker: str, how: Sequence[Mapping[str, Any]], buried: bool) -> None:
        """What is revoked while it runs never starts again, unless it was buried and somebody replays it."""
        self.take_all(worker)
        revoked = self.revoke(0, "running")
        self.end_all(worker, [{"outcome": Outcome.DEAD}] if buried else how)
        if buried and revoked not in self.model.dropped:
            self.run_now_or_again(revoked, now=False)
            self.take_all(worker)
            self.end_all(worker, how)

    @rule(what=targets, kind=kinds, worker=workers, then=st.sampled_from(["nothing", "purge", "revoke"]))
    def pause_for_a_while(self, what: tuple[PauseKind, str], kind: Mapping[str, Any], worker: str, then: str) -> None:
        """What waits through a pause is handed out at the first look after it, if it still waits."""
        kind = {"queue": "alpha", **kind, **({what[0]: what[1]} if what[0] != "worker" else {})}
        self.enqueue([kind])
        self.pause(what, None)
        self.take_all(worker)
        self.time_passes(0.6, frozenset(WORKERS))
        self.take_all(worker)
        self.reconcile()
        if then == "purge":
            self.purge(kind["queue"])
        elif then == "revoke":
            self.revoke(0, "waiting")
        self.resume(what)
        self.take_all(worker)

    # --------------------------------------------------------------------------------------------------------- the end

    def drain(self) -> None:
        """Whoever is left ends it all: every task is final, and nothing is left standing."""
        for target in [target for target in self.model.pauses if self.model.paused(*target)]:
            self.resume(target)
        self.reconcile()
        self.catch_up("bob")
        self.fetch("bob", QUEUES, 2, True)
        self.adopt("bob")
        self.revoke(0, "running")
        self.end_all("bob", [{"outcome": Outcome.RETRY, "delay_ms": 700}])
        self.take_all("ann")
        self.beat("ann", True, None)
        self.crash("ann")
        self.time_passes(4.0, frozenset({"bob"}))
        self.sweep_all()
        # Long enough for every lease to run out, while nobody reaches the broker.
        self.time_passes(25.0, frozenset())
        for _ in range(40):
            self.sweep_all()
            self.work("ann", [{"outcome": Outcome.SUCCEEDED}], True)
            if not self.in_state("queued", "running", *LATER):
                break
            self.time_passes(BEAT_MS / 1_000, frozenset({"ann"}))
        agree(self.in_state("queued", "running", *LATER), [], "what never ends")
        for back in range(min(8, len(self.given))):
            self.settle(("old", back), {"outcome": Outcome.SUCCEEDED}, "its worker")
        while self.in_state("failed"):
            self.drop_dead(0, False)
        self.watched = True
        self.the_broker_is_as_the_model_says()
