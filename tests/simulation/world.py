"""One seeded world: workers, producers, an operator and faults around one broker; run to its end and judged.

The same seed gives the same trace, on every machine: all randomness and all time come from here.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import itertools
import logging
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final
from unittest import mock

from stem.adapters.memory import InMemoryBroker
from stem.client import Stem
from stem.contracts import Limits
from stem.control import asking
from stem.control.controller import Controller
from stem.errors import BrokerError
from stem.options import TaskOptions
from stem.worker import host, runtime, vitals
from tests.simulation.ledger import Ledger
from tests.simulation.loop import Lane, Process, ServerClock, SimLoop, SimulationError, virtual_time
from tests.simulation.network import Network, SimBroker
from tests.simulation.node import ProducerNode, SimVitals, WorkerNode
from tests.simulation.scene import QUEUES, Profile, profile_of, scene

SLACK_S: Final = 10.0
BROKEN: Final = {"loop.died", "vitals.died", "control.failed", "tasks.repaired", "worker.broken"}
"""Lines of the log that a worker must never write here, but for `worker.broken` after its loop was blocked."""


@dataclass(slots=True)
class Report:
    """What came of one seed."""

    seed: int
    profile: Profile
    violations: list[str]
    trace: list[str]
    counts: Counter[str]
    virtual_s: float
    steps: int

    @property
    def summary(self) -> str:
        """Say what was violated, and how to play this seed again."""
        head = f"seed {self.seed} ({self.profile}): {len(self.violations)} violations"
        again = f"again: python -m tests.simulation --seed {self.seed} --trace"
        return "\n    ".join([head, *self.violations[:10], again])

    @property
    def digest(self) -> str:
        """Return a hash of the whole trace."""
        return hashlib.sha256("\n".join(self.trace).encode()).hexdigest()


class World:
    """Builds a scene, plays it, heals it, and waits until it has come to rest."""

    def __init__(self, seed: int, profile: Profile) -> None:
        self.seed = seed
        self.profile = profile
        self.rng = random.Random(f"{profile} {seed}")
        self.loop = SimLoop(self.rng)
        self.clock = ServerClock(self.loop)
        self.ledger = Ledger(self.clock)
        self.scene = scene(self.rng, profile)
        self.inner = InMemoryBroker(
            clock=self.clock, limits=Limits(lost_after_ms=round(3_000 * self.scene.plan.interval_s))
        )
        self.network = Network(self.loop, self.rng, self.scene.weather, tap=self.ledger.tap, harm=self.ledger.harm)
        self.workers: list[WorkerNode] = []
        self._numbers = itertools.count(1)
        self._ids: list[str] = []
        self._crashed: list[tuple[float, WorkerNode]] = []
        self._tasks: set[asyncio.Task[Any]] = set()
        self.over = False

    # ----------------------------------------------------------------------------------------------------------- nodes

    def process(self, name: str) -> Process:
        rng = self.rng
        process = Process(name, skew_ms=rng.randint(-3_600_000, 3_600_000), offset_s=rng.uniform(0, 100_000))
        process.burnt = self._burnt
        return process

    def broker(self, process: Process) -> Any:
        return SimBroker.typed(self.inner.clone(), self.network, process)

    def spawn(self, name: str) -> WorkerNode:
        """Start one more worker process."""
        number = next(self._numbers)
        process = self.process(f"{name}-{number}")
        node = WorkerNode(name, number, self.broker(process), self.scene.plan, self.ledger, process)
        self.workers.append(node)
        self.ledger.note(f"spawn {node.id}")
        node.start()
        return node

    def _burnt(self, process: Process) -> None:
        """A process was killed."""
        self.ledger.harm("crash", process, self.loop.now, float("inf"))
        for node in self.workers:
            if node.process is process:
                self._crashed.append((self.loop.now, node))

    def starting(self) -> bool:
        """Say whether some worker has not begun to take work yet."""
        return any(not node.gone and (node.worker is None or not node.worker.started_well) for node in self.workers)

    def new_task(self) -> tuple[str, dict[str, Any], dict[str, Any]]:
        """Draw a task: its id, its arguments, and how it is enqueued."""
        rng, lease_s = self.rng, self.scene.plan.lease_s
        task_id = f"t{len(self._ids)}"
        self._ids.append(task_id)
        queue = rng.choice(QUEUES)
        args: dict[str, Any] = {"seconds": rng.choice([0.0, 0.0, 0.02, 0.3 * rng.random()])}
        options: dict[str, Any] = {"options": TaskOptions(queue=queue), "priority": rng.choice([None, 0, 9])}
        kind = rng.random()
        if kind < (0.8 if self.profile == "freeze" else 0.25):
            args["seconds"] = lease_s * rng.uniform(0.3, 2.0)
            args["progress"] = rng.random() < 0.3
            args["stubborn"] = rng.random() < 0.2
        elif kind < 0.7:
            match rng.randrange(6):
                case 0:
                    args["fails"] = rng.randint(1, 4)
                case 1:
                    args["asks"] = rng.randint(1, 2)
                case 2:
                    options["delay"] = lease_s * rng.random()
                case 3:
                    options["expires"] = max(0.05, lease_s * rng.random())
                case 4:
                    options["unique_key"] = rng.choice("abc")
                case _:
                    args["child"], args["queue"] = f"{task_id}-child", queue
        return task_id, args, options

    # ---------------------------------------------------------------------------------------------------------- faults

    async def _faults(self) -> None:
        scene_, rng = self.scene, self.rng
        for moment in sorted(rng.random() * scene_.load_s for _ in range(scene_.faults)):
            await asyncio.sleep(max(0.0, moment - self.loop.now))
            alive = [node for node in self.workers if not node.gone and not node.process.frozen]
            if self.profile == "crash":
                self._kill(rng.choice(alive))
            elif self.profile == "freeze":
                if alive:
                    self._soon(self._freeze(rng.choice(alive)))
            else:
                self._one_fault(alive)

    def _one_fault(self, alive: list[WorkerNode]) -> None:
        rng, scene_ = self.rng, self.scene
        longest_s = 3 * scene_.plan.lease_s
        dice = rng.random()
        if dice < 0.12:
            self.network.outage(longest_s * rng.random(), refuses=rng.random() < 0.5)
            return
        if not alive:
            self.spawn("w0")
            return
        node = rng.choice(alive)
        if dice < 0.37:
            self._kill(node)
            self._soon(self._replace(node))
        elif dice < 0.57:
            self._soon(self._freeze(node))
        elif dice < 0.7:
            self._soon(self._block(node))
        elif dice < 0.8:
            self.network.cut_off(node.process, longest_s * rng.random())
        elif dice < 0.9:
            self.ledger.harm("stop", node.process, self.loop.now, float("inf"))
            node.stop(rng.choice(["warm", "soft", "hard"]))
            self._soon(self._replace(node))
        else:
            self.ledger.harm("clock", node.process, self.loop.now, self.loop.now)
            node.process.skew_ms = rng.randint(-3_600_000, 3_600_000)

    def _kill(self, node: WorkerNode) -> None:
        """Kill it between two steps, now or some steps later."""
        node.process.fuse = self.rng.randint(1, 40)

    async def _freeze(self, node: WorkerNode) -> None:
        """As SIGSTOP and SIGCONT: handlers, heartbeat and all."""
        shortest = 1.0 if self.profile == "freeze" else 0.0
        seconds = self.scene.plan.lease_s * self.rng.uniform(shortest, 3.0)
        node.process.frozen = True
        self.ledger.harm("freeze", node.process, self.loop.now, self.loop.now + seconds + 6.0)
        await asyncio.sleep(seconds)
        node.process.frozen = False
        self.loop.release(node.process)

    async def _block(self, node: WorkerNode) -> None:
        """As a handler that holds the work loop: the vitals go on."""
        seconds = 3 * self.scene.plan.lease_s * self.rng.random()
        node.work.blocked = True
        self.ledger.harm("block", node.process, self.loop.now, self.loop.now + seconds + 6.0)
        await asyncio.sleep(seconds)
        node.work.blocked = False
        self.loop.release(node.process)

    async def _replace(self, node: WorkerNode) -> None:
        await asyncio.sleep(self.scene.plan.lease_s * self.rng.random())
        self.spawn(node.id.partition("-")[0])

    # -------------------------------------------------------------------------------------------------------- operator

    async def _operate(self) -> None:
        """Revoke, pause and resume at random moments."""
        operator = Controller(self.broker(self.process("operator")), timeout_s=3.0)
        rng = self.rng
        while self.loop.now < self.scene.load_s:
            await asyncio.sleep(rng.uniform(0.2, 2.0))
            if rng.random() < 0.5:
                running = [each for each, task in self.ledger.tasks.items() if task.grants and not task.finals]
                task_id = f"t{rng.randrange(self.scene.tasks)}"
                if running and rng.random() < 0.7:
                    task_id = rng.choice(running)
                self.ledger.task(task_id)
                await self._ask(operator.revoke([task_id], terminate=rng.random() < 0.5))
            else:
                queue = rng.choice(QUEUES)
                result = await self._ask(operator.pause("queue", [queue], wait_s=3.0))
                if result is not None and result.epoch and not result.silent and result.applied == result.expected:
                    self.ledger.pause_confirmed(queue)
                await asyncio.sleep(rng.uniform(0.1, 1.0))
                await self._ask(operator.resume("queue", [queue]))

    async def _ask(self, call: Any) -> Any:
        try:
            return await call
        except BrokerError:
            return None

    # ------------------------------------------------------------------------------------------------------------ play

    async def play(self) -> None:
        scene_ = self.scene
        for number in range(scene_.workers):
            self.spawn(f"w{number}")
        makers = []
        for number in range(scene_.producers):
            process = self.process(f"p{number}")
            stem = Stem(self.broker(process))
            producer = ProducerNode(stem, self.ledger, self.rng, process, self.new_task)
            makers.append(producer.start(scene_.tasks // scene_.producers, scene_.load_s))
        background = [self._soon(self._faults())]
        if scene_.operator:
            background.append(self._soon(self._operate()))
        await asyncio.wait([*makers, *background])
        for task in background:
            task.result()
        await self._heal()
        await self._rest()
        self._judge()
        await self._stop()

    async def _heal(self) -> None:
        """End all faults; whoever still sleeps wakes up, and two fresh workers come."""
        self.ledger.note("heal")
        self.network.heal()
        while self._tasks:
            await asyncio.wait(set(self._tasks))
        for node in self.workers:
            node.process.fuse = None
        if self.scene.operator:
            await asyncio.sleep(3 * self.scene.plan.lease_s)  # a pause may still be on its way
        for queue in QUEUES:
            operator = Controller(self.broker(self.process("operator")), timeout_s=0.1)
            await self._ask(operator.resume("queue", [queue]))
        if self.profile == "storm":
            for _ in range(2):
                self.spawn("w0")

    def _core_idle(self) -> bool:
        lines = self.inner._core.lines.values()
        return all(not line.waiting and not line.leased for line in lines)

    async def _rest(self) -> None:
        """Wait until nothing waits or runs any more, and not longer than it may take."""
        plan = self.scene.plan
        longest_s = 2.0 * plan.lease_s + 1.0
        # What was lost lately is found when its lease has run out; then up to three runs and their retries follow,
        # for all tasks that share the slots of the fleet.
        share = max(1.0, len(self._ids) / plan.concurrency)
        bound = plan.lease_s * 2 + 5.0 + SLACK_S + share * 4 * (longest_s + 1.0)
        deadline = self.loop.now + bound
        await asyncio.sleep(1.0)
        while not self._core_idle():
            if self.loop.now > deadline:
                self.ledger.wrong(f"I6 not at rest {bound:.0f} s after all faults were healed")
                return
            await asyncio.sleep(0.25)
        # Handlers that were given up may go on for a while.
        deadline = self.loop.now + longest_s + SLACK_S
        while self.loop.now < deadline:
            if not any(node.left() for node in self.workers if not node.gone):
                return
            await asyncio.sleep(0.25)

    def _judge(self) -> None:
        core, ledger = self.inner._core, self.ledger
        now = self.clock.wall_ms()
        ids = sorted(ledger.tasks)
        statuses = {
            task_id: None if (record := core.record(task_id, now)) is None else record.status(timeline=True)
            for task_id in ids
        }
        rows = _now(self.inner.census.queues())
        ledger.judge(statuses, rows, _now(self.inner.census.history(10_000)))
        if core.owned:
            ledger.wrong(f"I6 still owned: {core.owned}")
        for node in self.workers:
            if not node.gone and (left := node.left()):
                ledger.wrong(f"I6 {node.id} has not let go of {left}")
        if self.profile in ("calm", "lossy", "crash"):
            self._judge_calm()

    def _judge_calm(self) -> None:
        """Nothing runs twice without faults, nor for lost replies; what crashed runs elsewhere in time (I7)."""
        ledger, plan = self.ledger, self.scene.plan
        if self.profile != "crash" and ledger.counts["lapsed"]:
            ledger.wrong(f"I4 {ledger.counts['lapsed']} leases ran out in a {self.profile} world")
        for at_s, node in self._crashed:
            bound_s = plan.lease_s + max(0.5, min(4.0, plan.lease_s / 2)) * 1.2 + 3 * plan.interval_s / 6 + 1.0
            for task_id, task in ledger.tasks.items():
                for grant, following in itertools.pairwise(task.grants):
                    late_s = (following.at_ms - self.clock.wall_ms()) / 1000 + self.loop.now - at_s - bound_s
                    if grant.process is node.process and grant.settled is None and late_s > 0:
                        ledger.wrong(
                            f"I7 {task_id} ran again {late_s:.2f} s later than {bound_s:.2f} s after the crash"
                        )

    async def _stop(self) -> None:
        """Stop the fleet: everybody ends in time, and well."""
        for node in self.workers:
            if not node.gone:
                node.stop("warm")
        deadline = self.loop.now + self.scene.plan.drain_s + 5.0 + SLACK_S
        while any(not node.gone for node in self.workers):
            if self.loop.now > deadline:
                left = [node.id for node in self.workers if not node.gone]
                self.ledger.wrong(f"I16 did not stop in time: {left}")
                return
            await asyncio.sleep(0.25)
        for node in self.workers:
            if node.code and self.profile in ("calm", "crash", "freeze"):
                self.ledger.wrong(f"I16 {node.id} ended with exit code {node.code}")

    async def clear(self) -> None:
        """End whatever still runs; nothing of this counts any more."""
        self.over = self.network.closed = True
        for node in self.workers:
            node.process.dead = node.process.frozen = node.work.blocked = False
            self.loop.release(node.process)
        me = asyncio.current_task()
        for _ in range(200):
            left = [task for task in asyncio.all_tasks() if task is not me]
            if not left:
                return
            for task in left:
                task.cancel()
            await asyncio.sleep(1.0)
        raise SimulationError(f"{len(left)} tasks cannot be ended")

    def _soon(self, coroutine: Any) -> asyncio.Task[Any]:
        task = self.loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _now(coroutine: Any) -> Any:
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it waits for something")


class _Log(logging.Handler):
    """Notes the lines that a worker must not write."""

    def __init__(self, world: World) -> None:
        super().__init__(logging.WARNING)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        event = record.getMessage().partition(" ")[0]
        world = self._world
        if world.over or event not in BROKEN:
            return
        if event == "worker.broken" and (world.ledger.counts["block"] or world.starting()):
            return  # wedged indeed; or taken for it, because the first look at the server takes long
        world.ledger.wrong(f"the log says {record.getMessage()} {record.exc_text or record.exc_info or ''}")


@contextmanager
def _around(world: World) -> Iterator[None]:
    """Put the world's time, randomness and log in place of the real ones, and take them away again."""
    log = logging.getLogger("stem.worker")
    before = log.handlers[:], log.level, log.propagate
    handler = _Log(world)
    log.handlers, log.propagate = [handler], False
    log.setLevel(logging.WARNING)
    state = random.getstate()
    random.seed(world.seed)
    numbers = itertools.count(1)

    def new_command_id() -> str:
        return f"c-{next(numbers)}"

    collects = gc.isenabled()
    gc.disable()
    with ExitStack() as stack:
        stack.enter_context(virtual_time(world.loop))
        for target, name, value in (
            (runtime, "Vitals", SimVitals),
            (vitals, "write_stacks", lambda *loop: None),
            (host, "rss_bytes", lambda: 1),
            (host.CpuMeter, "percent", lambda self: 0.0),
        ):
            stack.enter_context(mock.patch.object(target, name, value))
        stack.enter_context(mock.patch.object(asking, "new_task_id", new_command_id))
        try:
            yield
        finally:
            log.handlers, log.level, log.propagate = before
            random.setstate(state)
            if collects:
                gc.enable()


def simulate(seed: int, profile: Profile = "storm") -> Report:
    """Play one seed; the report says what was violated. Never raises for what the world under test does."""
    world = World(seed, profile)
    loop, ledger = world.loop, world.ledger

    def unheard(loop_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if not world.over:
            ledger.wrong(f"nobody heard: {context.get('message')} {context.get('exception')!r}")

    loop.set_exception_handler(unheard)
    with _around(world):
        lane: Lane = Process("world").lane("loop")
        try:
            loop.run_until_complete(loop.create_task(world.play(), context=lane.context()))
        except SimulationError as error:
            ledger.wrong(str(error))
        finally:
            counted, steps, virtual_s = Counter(ledger.counts), loop.steps, loop.now
            violations, trace = list(ledger.violations), list(ledger.trace)
            loop.run_until_complete(loop.create_task(world.clear(), context=lane.context()))
            loop.close()
    return Report(seed, world.profile, violations, trace, counted, virtual_s, steps)


def play(seed: int) -> Report:
    """Play one seed with its own profile, for another process: the trace is too much to send."""
    report = simulate(seed, profile_of(seed))
    report.trace.clear()
    return report
