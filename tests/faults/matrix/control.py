"""Commands while workers cannot hear them: half of them cut off, or one that does not read its subscription.

What is asked for is stored and holds at once; the answer names who has not confirmed it, and why. Once everybody hears
again, each command has been carried out once by each process it was for, in the order in which they were given.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from stem.control.answer import CommandResult
from stem.control.controller import Controller
from stem.messages.envelope import new_task_id
from stem.messages.status import TaskState
from tests.faults.chaos import ChaosProxy
from tests.faults.fleet import WorkerProcess, now_ns
from tests.faults.matrix.family import Row, family
from tests.faults.matrix.invariants import judge
from tests.faults.matrix.load import Load
from tests.faults.matrix.logbook import commands
from tests.faults.matrix.stage import FaultWorld, Stage
from tests.faults.rules import Fault
from tests.servers import Server
from tests.waiting import eventually

HEARD_S: Final = 60.0
"""How long workers may take to hear again: time-outs of what they asked in vain, and then their pauses, add up."""
BEAT_S: Final = 1.0
"""So rare that nobody counts as lost who is only slow on a busy machine."""
PATIENCE_S: Final = 10.0
"""Who is lost ends the wait for it: this is for those who hear."""
AWAY: Final = frozenset(("deaf", "lost"))
EVERYBODY: Final = ("a1", "a2", "b1", "b2")


@dataclass(slots=True)
class Given:
    """One command: its result, and the names of the workers that it was for."""

    what: str
    result: CommandResult
    to: frozenset[str]


@dataclass(slots=True)
class Orders:
    """The commands of one round, in the order in which they were given; complaints about their answers."""

    away: frozenset[str] = frozenset()
    given: list[Given] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def note(self, what: str, result: CommandResult, to: Iterable[str]) -> CommandResult:
        """Keep a command, and check that its answer named exactly those who could not hear it."""
        self.given.append(Given(what, result, frozenset(to)))
        missing = {silent.name: silent.diagnosis for silent in result.silent}
        wanted = self.away & frozenset(to)
        if missing.keys() != wanted:
            self.complaints.append(f"{what}: {sorted(wanted)} were cut off, and the answer named {missing}")
        if set(missing.values()) - AWAY:
            self.complaints.append(f"{what}: the answer says {missing} of workers that were cut off")
        present = frozenset(to) - self.away
        if result.applied < len(present) or result.failed:
            self.complaints.append(f"{what}: {result.applied} of {sorted(present)} confirmed, {result.failed} refused")
        return result

    def check(self, crew: Iterable[WorkerProcess], newcomers: Iterable[WorkerProcess] = ()) -> None:
        """Compare what each process carried out with what was for it."""
        ids = {given.result.command_id: given.what for given in self.given}
        for worker in crew:
            wanted = [given.result.command_id for given in self.given if worker.name in given.to]
            found = commands(worker, ids)
            if found != wanted:
                self.complaints.append(
                    f"{worker.name} was told {[ids[one] for one in wanted]} and did {[ids[one] for one in found]}"
                )
        for worker in newcomers:
            if found := [ids[one] for one in commands(worker, ids)]:
                self.complaints.append(f"{worker.name}, started after these commands, carried out {found}")
        epochs = [given.result.epoch for given in self.given]
        if epochs != sorted(set(epochs)):
            self.complaints.append(f"epochs that do not grow: {epochs}")


# ----------------------------------------------------------------------------------------------------- half cut off


@family("T-F20", "half of the workers cut off while commands are given", share_s=120)
async def split_control(stage: Stage) -> list[Row]:
    """Pauses, revokes, drains and shutdowns hold at once, name who is missing, and arrive once and in order."""
    server = stage.server()
    rounds = stage.times(full=10, share=1)
    given, complaints, longest_s = 0, [], 0.0
    async with ChaosProxy(server.url, server.folder / "p", seed=stage.seed) as proxy:
        world = await stage.world(server.url, beat_s=BEAT_S)
        async with Load(world, stage.random, per_s=15) as load:
            for number in range(rounds):
                split = Split(stage, world, proxy, cut_s=4.0 if rounds == 1 else stage.random.uniform(3.5, 14.0))
                await split.play()
                await load.until(load.acked + 1)
                given += len(split.orders.given)
                longest_s = max(longest_s, split.heard_after_s)
                complaints += [f"round {number}: {one}" for one in split.orders.complaints]
            await world.workers("last-1", "last-2")
        verdict = await judge(world)
    verdict.violations += complaints
    verdict.recovery_s = longest_s
    return [stage.row(verdict, injected=f"{rounds} times 2 of 4 workers cut off, {given} commands meanwhile")]


class Split:
    """One round: two workers that hear (`a1`, `a2`), two behind a proxy that swallows everything (`b1`, `b2`)."""

    def __init__(self, stage: Stage, world: FaultWorld, proxy: ChaosProxy, *, cut_s: float) -> None:
        self.stage = stage
        self.world = world
        self.proxy = proxy
        self.cut_s = cut_s
        self.orders = Orders()
        self.controller = Controller(world.broker, actor="tests", timeout_s=PATIENCE_S)
        self.crew: dict[str, WorkerProcess] = {}
        self.heard_after_s = 0.0

    async def play(self) -> None:
        world, orders = self.world, self.orders
        await self._start()
        naps = {name: await world.enqueue("nap", queue=name, seconds=120.0) for name in EVERYBODY}
        await world.started(*naps.values())
        far = [self.crew["b1"], self.crew["b2"]]
        hole = Fault(hole=True)
        async with world.disturbed([worker.pid for worker in far], after_s=HEARD_S):
            orders.away = frozenset(worker.name for worker in far)
            self.proxy.on(hole)
            ends_at = time.monotonic() + self.cut_s
            # What was handed out before is under way; from here on, what is stored is all there is.
            mark = await self._give(list(naps.values()))
            newcomer = world.fleet.spawn("b2", queues=("default", "calm", "b2"))
            await world.ready(newcomer)
            await asyncio.sleep(max(0.0, ends_at - time.monotonic()))
            self.proxy.off(hole)
        orders.away = frozenset()
        await self._heard(newcomer)
        await self._look(mark, naps, newcomer)
        await self._free_again(mark)
        orders.check(self.crew.values(), [])
        await self._stop(newcomer)

    async def _start(self) -> None:
        for name in EVERYBODY:
            env = {"STEM_BROKER_URL": self.proxy.url} if name.startswith("b") else {}
            self.crew[name] = self.world.fleet.spawn(name, queues=("default", "calm", name), env=env)
        for worker in self.crew.values():
            await self.world.ready(worker)

    async def _give(self, naps: list[str]) -> Mark:
        """Give the commands, toggling some of them; each time, enqueue what must not start from then on."""
        world, note, chance = self.world, self.orders.note, self.stage.random
        control = self.controller
        mark = Mark()
        hasty = await Controller(world.broker, actor="tests", timeout_s=0.5).ping()
        if missed := self.orders.away - {silent.name for silent in hasty.silent}:
            self.orders.complaints.append(f"a ping right after the cut does not name {sorted(missed)}")
        note("pause calm", await control.pause("queue", ["calm"]), EVERYBODY)
        mark.paused = await world.enqueue_some(5, "quick", queue="calm")
        mark.stored_ns = now_ns()
        for number in range(chance.randint(1, 3)):
            task = f"some.task-{number}"
            note(f"pause {task}", await control.pause("task", [task]), EVERYBODY)
            if chance.random() < 0.7:
                note(f"resume {task}", await control.resume("task", [task]), EVERYBODY)
        waiting = [*await world.enqueue_some(3, "quick", queue="calm"), await world.enqueue("quick", delay=1.0)]
        unborn = new_task_id()
        result = await control.revoke([*naps, *waiting, unborn], terminate=True)
        mark.revoked_ns = now_ns()
        self._note_revoke(result, waiting, naps)
        await world.enqueue("quick", task_id=unborn)
        mark.revoked = [*waiting, unborn]
        if chance.random() < 0.5:
            note("drain b1 early", await control.drain(["b1"]), ["b1"])
            note("undrain b1 early", await control.undrain(["b1"]), ["b1"])
        note("drain", await control.drain(["a1", "b1"]), ["a1", "b1"])
        mark.drained = [await world.enqueue("quick", queue=name) for name in ("a1", "b1") for _ in range(2)]
        note("shutdown", await control.shutdown(["a2", "b2"]), ["a2", "b2"])
        return mark

    def _note_revoke(self, result: CommandResult, waiting: list[str], naps: list[str]) -> None:
        """All workers read a revoke; only those that run one of its tasks are asked to confirm it."""
        self.orders.note("revoke", result, EVERYBODY)
        outcomes = {item.target: item.outcome for item in result.items}
        wrong = {one: outcomes[one] for one in waiting if outcomes[one] != "revoked"}
        if wrong:
            self.orders.complaints.append(f"revoke of waiting tasks: {wrong}")
        if not outcomes.keys() >= set(naps):
            self.orders.complaints.append(f"revoke names {len(outcomes)} tasks only")

    async def _heard(self, newcomer: WorkerProcess) -> None:
        """Wait until those cut off have caught up, each process as it was told."""
        healed = time.monotonic()
        last = max(given.result.epoch for given in self.orders.given)
        codes = {name: await self.crew[name].exit_code(HEARD_S) for name in ("a2", "b2")}
        if any(codes.values()):
            self.orders.complaints.append(f"a shutdown ended with {codes}")

        async def drained() -> bool:
            beats = [(await self.world.seen(self.crew[name])).heartbeat for name in ("a1", "b1")]
            return all(beat.epoch >= last and beat.state == "draining" for beat in beats)

        await eventually(drained, HEARD_S, what="both drained workers say so, with the newest epoch")
        self.heard_after_s = time.monotonic() - healed
        if not newcomer.running:
            self.orders.complaints.append("a later process of the same name was shut down")

    async def _look(self, mark: Mark, naps: dict[str, str], newcomer: WorkerProcess) -> None:
        """Check I8 and I9 while everything that was asked for still stands."""
        world, complain = self.world, self.orders.complaints.append
        own = await world.enqueue("quick", queue="b2")
        await world.reaches(own, TaskState.SUCCEEDED, timeout=HEARD_S)
        for name, task_id in naps.items():
            await world.reaches(task_id, TaskState.REVOKED, timeout=HEARD_S)
            if len(world.ledger.read().starts(task_id)) != 1:
                complain(f"the revoked task that ran on {name} was started again")
        account = world.ledger.read()
        if [line.pid for line in account.starts(own)] != [newcomer.pid]:
            complain("the later process of a stopped one's name does not take its work")
        started = account.ids("start")
        for what, ids in (("revoked", mark.revoked), ("paused", mark.paused), ("drained", mark.drained)):
            if early := started & set(ids):
                complain(f"{what} tasks were started: {sorted(early)}")
        for task_id in mark.revoked:
            if await world.state(task_id) is not TaskState.REVOKED:
                complain(f"the revoked {task_id} is {await world.state(task_id)}")

    async def _free_again(self, mark: Mark) -> None:
        orders, control = self.orders, Controller(self.world.broker, actor="tests", timeout_s=HEARD_S)
        orders.note("resume calm", await control.resume("queue", ["calm"]), ["a1", "b1"])
        orders.note("undrain", await control.undrain(["a1", "b1"]), ["a1", "b1"])
        await self.world.all_final([*mark.paused, *mark.drained], timeout=HEARD_S)
        for pause in await self.world.broker.census.pauses():
            orders.note(f"resume {pause.target}", await control.resume(pause.kind, [pause.target]), ["a1", "b1"])

    async def _stop(self, newcomer: WorkerProcess) -> None:
        left = [self.crew["a1"], self.crew["b1"], newcomer]
        for worker in left:
            worker.send(signal.SIGTERM)
        codes = {worker.name: await worker.exit_code(HEARD_S) for worker in left}
        if any(codes.values()):
            self.orders.complaints.append(f"SIGTERM ended with {codes}")


@dataclass(slots=True)
class Mark:
    """Tasks that must not start: while the queue is paused, ever, while their worker is drained."""

    paused: list[str] = field(default_factory=list)
    revoked: list[str] = field(default_factory=list)
    drained: list[str] = field(default_factory=list)
    stored_ns: int = 0
    revoked_ns: int = 0


# ------------------------------------------------------------------------------------------------- slow subscriber


@family("T-F19", "a subscriber that does not read until the server cuts it off", share_s=90)
async def slow_subscriber(stage: Stage) -> list[Row]:
    """A frozen worker's subscription overflows at the server; thawed, it listens again and has missed nothing."""
    limits = ("--client-output-buffer-limit", "pubsub", "256kb", "128kb", "2")
    server = stage.server(options=limits)
    world = await stage.world(server.url, beat_s=BEAT_S)
    rounds = stage.times(full=3, share=1)
    complaints: list[str] = []
    published, longest_s = 0, 0.0
    async with Load(world, stage.random, per_s=15):
        awake = await world.worker("awake", queues=("default", "calm"))
        for number in range(rounds):
            before = _subscriptions(server)
            frozen = await world.worker("frozen", queues=("default", "calm"))
            (subscription,) = _subscriptions(server) - before
            orders = Orders(away=frozenset(["frozen"]))
            async with world.disturbed([frozen.pid], after_s=HEARD_S):
                frozen.freeze()
                published += await _steer_past(world, server, orders, subscription)
                thawed = time.monotonic()
                frozen.thaw()
                orders.away = frozenset()
                await _caught_up(world, frozen, orders.given[-1].result.epoch)
                longest_s = max(longest_s, time.monotonic() - thawed)
            patient = Controller(world.broker, actor="tests", timeout_s=HEARD_S)
            answer = await patient.ping()
            if (answer.replied, list(answer.silent)) != (2, []):
                complaints.append(f"round {number}: {answer.replied} of 2 answer a ping afterwards")
            orders.note("resume late", await patient.resume("queue", ["calm"]), ["awake", "frozen"])
            orders.check([awake, frozen])
            complaints += [f"round {number}: {one}" for one in orders.complaints]
            frozen.send(signal.SIGTERM)
            await frozen.exit_code(HEARD_S)
    verdict = await judge(world)
    verdict.violations += complaints
    verdict.recovery_s = longest_s
    note = f"{published / 1e6:.0f} MB published until then"
    return [stage.row(verdict, injected=f"{rounds} subscriptions cut off by the server", note=note)]


async def _steer_past(world: FaultWorld, server: Server, orders: Orders, subscription: int) -> int:
    """Give commands before and after the server gives up who does not read; return the bytes it took."""
    both = ["awake", "frozen"]
    control = Controller(world.broker, actor="tests", timeout_s=PATIENCE_S)
    orders.note("pause early", await control.pause("queue", ["calm"]), both)
    published = await _overflow(server, world.namespace, subscription)
    waiting = await world.enqueue("quick", queue="calm")
    revoked = await control.revoke([waiting])
    if [item.outcome for item in revoked.items] != ["revoked"]:
        orders.complaints.append(f"a waiting task was not revoked: {revoked.items}")
    orders.note("resume", await control.resume("queue", ["calm"]), both)
    orders.note("pause", await control.pause("queue", ["calm"]), both)
    return published


async def _overflow(server: Server, namespace: str, subscription: int) -> int:
    """Publish until the server has closed this subscription, whose reader stands still; return the bytes."""
    channel, junk, sent = f"{{{namespace}}}@0:control", "x" * 100_000, 0
    with server.client() as client:

        def cut_off() -> bool:
            nonlocal sent
            for _ in range(5):
                client.publish(channel, junk)
            sent += 5 * len(junk)
            return subscription not in _subscriptions(server)

        await eventually(cut_off, 60, what="the server cuts the subscriber off")
    return sent


def _subscriptions(server: Server) -> set[int]:
    with server.client() as client:
        return {int(row["id"]) for row in client.client_list(_type="pubsub")}


async def _caught_up(world: FaultWorld, worker: WorkerProcess, epoch: int) -> None:
    async def applied() -> bool:
        return (await world.seen(worker)).heartbeat.epoch >= epoch

    await eventually(applied, HEARD_S, what=f"{worker.name} has applied epoch {epoch}")
