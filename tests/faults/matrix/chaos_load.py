"""Everything at once: workers, server, wires and operators go wrong at random, several at a time, under load."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Final

import redis

from stem.contracts import PauseKind
from stem.errors import BrokerError
from stem.messages.envelope import new_task_id
from tests.faults.chaos import ChaosProxy
from tests.faults.fleet import WorkerProcess
from tests.faults.ledger import Account
from tests.faults.matrix.family import Row, family
from tests.faults.matrix.invariants import Verdict, judge
from tests.faults.matrix.load import MIX, Load
from tests.faults.matrix.stage import FaultWorld, Stage
from tests.faults.rules import Fault, Loss, of_pid
from tests.servers import Server
from tests.waiting import eventually

LEASE_S: Final = 3.0
WORKERS: Final = 4
LOSS: Final = 0.02
BACK_S: Final = 30.0
ENDED_S: Final = 45.0

# The system has what was appended before the server answers, so that killing it with SIGKILL takes nothing back. With
# `everysec` it may: while a slow fsync is under way, the server puts off writing for up to two seconds, and answers.
KEPT: Final = ("--appendfsync", "no")


@family("T-F22", "everything at random", share_s=120, full_s=1_500)
async def random_mixture(stage: Stage) -> list[Row]:
    seconds = stage.times(full=600, share=6)
    server = stage.server(options=KEPT)
    async with ChaosProxy(server.url, server.folder / "p", seed=stage.random.getrandbits(32)) as proxy:
        world = await stage.world(
            server.url, STEM_BROKER_URL=proxy.url, STEM_VISIBILITY_TIMEOUT=f"{round(LEASE_S * 1000)}ms"
        )
        await world.workers(*(f"w{n + 1}" for n in range(WORKERS)))
        chaos = Chaos(stage.random, world, server, proxy)
        began_ns = time.monotonic_ns()
        async with Load(world, stage.random, url=proxy.url, lease_s=LEASE_S, steer=True) as load:
            await chaos.rage(seconds)
            await chaos.heal()
        verdict = await judge(world, timeout=120)
        verdict.violations += chaos.complaints
        chaos.check_revoked(verdict)
        verdict.expect(not load.refused, f"{load.refused} enqueues were refused")
        verdict.recovery_s = longest_absence_s(verdict.account, world)
        verdict.notes.append(
            f"{load.unknown} enqueues of unknown outcome, {sum(proxy.lost.values())} answers lost, "
            f"{(time.monotonic_ns() - began_ns) / 1e9:.0f} s"
        )
        for worker in world.fleet:
            verdict.expect(not worker.tracebacks(), f"{worker.name} wrote a traceback: {worker.tracebacks()[:1]}")
    said = ", ".join(f"{count} x {name}" for name, count in chaos.done.most_common())
    return [stage.row(verdict, injected=f"{chaos.done.total()} faults: {said}")]


def longest_absence_s(account: Account, world: FaultWorld) -> float:
    """Return the longest time from a worker's death until a task that it ran then was started again."""
    runs: dict[int, list[tuple[int, str]]] = {}
    starts: dict[str, list[int]] = {}
    over = {(line.id, line.pid): line.at_ns for line in account.lines if line.kind.startswith(("final:", "retry"))}
    for line in account.lines:
        if line.kind == "start":
            runs.setdefault(line.pid, []).append((line.at_ns, line.id))
            starts.setdefault(line.id, []).append(line.at_ns)
    longest = 0
    for fault in world.disturbances:
        if fault.pids is None or fault.end_ns < 2**63:
            continue  # not a death
        for pid in fault.pids:
            cut = [task for at, task in runs.get(pid, []) if at < fault.begin_ns and (task, pid) not in over]
            for task in cut:
                again = min((at for at in starts[task] if at > fault.begin_ns), default=fault.begin_ns)
                longest = max(longest, again - fault.begin_ns)
    return longest / 1e9


class Chaos:
    """What goes wrong, by a seeded choice; faults overlap.

    Attributes:
        done: how often each fault was done.
        complaints: what did not go as it must.
    """

    def __init__(self, chance: random.Random, world: FaultWorld, server: Server, proxy: ChaosProxy) -> None:
        self.done: Counter[str] = Counter()
        self.complaints: list[str] = []
        self._random = chance
        self._world = world
        self._server = server
        self._proxy = proxy
        self._number = WORKERS
        self._revoked: dict[str, int] = {}
        self._restarting = asyncio.Lock()
        self._stopping: list[WorkerProcess] = []
        self._acts: dict[str, tuple[int, Callable[[], Awaitable[object]]]] = {
            "kill -9 of a worker": (6, self._kill_worker),
            "worker frozen": (4, self._freeze_worker),
            "worker restarted by SIGTERM": (3, self._restart_worker),
            "server killed with -9": (2, self._kill_server),
            "server frozen": (2, self._freeze_server),
            "answers lost": (5, self._lose_answers),
            "connections reset": (3, self._reset),
            "worker cut off": (3, self._cut_off),
            "slow network": (2, self._slow_network),
            "SCRIPT FLUSH": (3, self._flush_scripts),
            "CLIENT KILL": (3, self._kill_clients),
            "pause and resume": (3, self._pause),
            "revoke": (6, self._revoke),
        }

    async def rage(self, seconds: float) -> None:
        """Do faults for so long, a new one each 0.1 to 0.6 s, and return when the last of them is over."""
        until = time.monotonic() + seconds
        names = list(self._acts)
        weights = [weight for weight, _ in self._acts.values()]
        # Each fault once at least, in any order, where there is time for it; then by weight.
        first = self._random.sample(names, len(names))
        async with asyncio.TaskGroup() as acts:
            while time.monotonic() < until:
                name = first.pop() if first else self._random.choices(names, weights)[0]
                self.done[name] += 1
                acts.create_task(self._act(name), name=name)
                await asyncio.sleep(self._random.uniform(0.1, 0.6))

    async def heal(self) -> None:
        """Take every fault away, and wait until workers are there that work."""
        self._proxy.off()
        for worker in self._world.fleet:
            worker.thaw()
        await asyncio.to_thread(self._server.sigcont)

        async def nothing_paused() -> bool:
            with contextlib.suppress(BrokerError):
                for one in await self._world.broker.census.pauses():
                    await self._world.controller.resume(one.kind, [one.target])
                return not await self._world.broker.census.pauses()
            return False

        await eventually(nothing_paused, BACK_S, what="nothing is paused")
        for worker in self._stopping:
            code = await worker.exit_code(ENDED_S)
            # 1: it could not hand everything back, because the server was away; -9: another fault came first.
            if code not in (0, 1, -signal.SIGKILL):
                self.complaints.append(f"{worker.name} was told to stop and ended with {code}")
        await asyncio.gather(*(self._world.ready(worker) for worker in self._running()))

    def check_revoked(self, verdict: Verdict) -> None:
        """I8: no start under a token newer than the one that the record had when its revoke returned."""
        for task_id, token in self._revoked.items():
            later = [line.token for line in verdict.account.starts(task_id) if line.token > token]
            verdict.expect(not later, f"{task_id} was revoked at token {token} and started with {later}")

    async def _act(self, name: str) -> None:
        with contextlib.suppress(BrokerError, redis.RedisError):  # the server is away just now, and that is intended
            await self._acts[name][1]()

    def _running(self) -> list[WorkerProcess]:
        return [worker for worker in self._world.fleet if worker.running and worker not in self._stopping]

    def _some_worker(self) -> WorkerProcess:
        return self._random.choice(self._running())

    def _spawn(self) -> None:
        self._number += 1
        self._world.fleet.spawn(f"w{self._number}")

    # ------------------------------------------------------------------------------------------------------- workers

    async def _kill_worker(self) -> None:
        self._world.kill9(self._some_worker().name)
        self._spawn()

    async def _freeze_worker(self) -> None:
        worker = self._some_worker()
        # What it was handed while it stood still has little of its lease left when it goes on.
        async with self._world.disturbed([worker.pid], after_s=LEASE_S):
            worker.send(signal.SIGSTOP)
            await asyncio.sleep(self._random.uniform(0.3, 2.5) * LEASE_S)
            worker.thaw()

    async def _restart_worker(self) -> None:
        worker = self._some_worker()
        if worker.id or await self._known(worker):  # one that only just begins may not have its signal handlers yet
            self._stopping.append(worker)
            worker.send(signal.SIGTERM)
            self._spawn()

    async def _known(self, worker: WorkerProcess) -> bool:
        return any(seen.heartbeat.pid == worker.pid for seen in await self._world.broker.presence.workers())

    # -------------------------------------------------------------------------------------------- the server, the wires

    async def _kill_server(self) -> None:
        async with self._restarting, self._world.disturbed(after_s=LEASE_S):
            await asyncio.to_thread(self._server.kill9)
            await asyncio.sleep(self._random.uniform(0.0, 1.0))
            await asyncio.to_thread(self._server.start)

    async def _freeze_server(self) -> None:
        async with self._restarting, self._world.disturbed(after_s=LEASE_S):
            self._server.sigstop()
            await asyncio.sleep(self._random.uniform(0.1, 2.0))
            self._server.sigcont()

    async def _command(self, *words: str) -> None:
        async with self._restarting:
            await asyncio.to_thread(self._server.command, *words)

    async def _lose_answers(self) -> None:
        """An answer that is lost with its connection costs nobody a lease; one that never comes may."""
        silent = self._random.random() < 0.3
        async with contextlib.AsyncExitStack() as stack:
            if silent:
                await stack.enter_async_context(self._world.disturbed(after_s=LEASE_S))
            stack.enter_context(self._proxy.having(Loss(share=LOSS, then="silence" if silent else "close")))
            await asyncio.sleep(self._random.uniform(0.5, 3.0))

    async def _reset(self) -> None:
        await asyncio.to_thread(self._proxy.reset, lambda link: link.number % 3 == 0)

    async def _cut_off(self) -> None:
        worker = self._some_worker()
        async with self._world.disturbed([worker.pid], after_s=LEASE_S):
            with self._proxy.having(Fault(where=of_pid(worker.pid), hole=True)):
                await asyncio.sleep(self._random.uniform(0.3, 2.5) * LEASE_S)

    async def _slow_network(self) -> None:
        with self._proxy.having(Fault(latency_s=0.02, jitter_s=0.05)):
            await asyncio.sleep(self._random.uniform(0.5, 2.0))

    async def _flush_scripts(self) -> None:
        await self._command("SCRIPT", "FLUSH")

    async def _kill_clients(self) -> None:
        await self._command("CLIENT", "KILL", "TYPE", self._random.choice(("normal", "pubsub")))

    # ------------------------------------------------------------------------------------------------------ operators

    async def _pause(self) -> None:
        choices: list[tuple[PauseKind, str]] = [("queue", "default")]
        choices += [("task", f"fault.{name}") for name in MIX]
        choices += [("worker", self._some_worker().name)]
        kind, target = self._random.choice(choices)
        await self._world.controller.pause(kind, [target], for_s=5.0)
        await asyncio.sleep(self._random.uniform(0.1, 1.0))
        await self._world.controller.resume(kind, [target])

    async def _revoke(self) -> None:
        """Enqueue some, revoke them a moment later: waiting, running, ended, whatever they are by then."""
        ids = [await self._enqueue() for _ in range(5)]
        await asyncio.sleep(self._random.uniform(0.0, 0.3))
        known = [task_id for task_id in ids if task_id]
        await self._world.controller.revoke(known, terminate=self._random.random() < 0.5)
        for status in await self._world.broker.statuses(known, timeline=False):
            if status is not None:
                self._revoked[status.id] = status.token

    async def _enqueue(self) -> str:
        task_id = new_task_id()
        self._world.ledger.write("tried", task_id)
        options: dict[str, Any] = {"delay": 0.5} if self._random.random() < 0.2 else {}
        await self._world.enqueue("nap", task_id=task_id, seconds=self._random.uniform(0.0, 1.0), **options)
        return task_id
