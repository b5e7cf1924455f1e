"""Workers whose wall clocks are wrong, drift and jump: leases, delays, pauses and expiry go by the server's clock.

The server's own clock is right here; what one that jumps would do is read from the scripts, which take no other.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from stem.messages.status import TaskState
from tests.faults.fleet import WorkerProcess
from tests.faults.ledger import Account
from tests.faults.matrix.family import Row, family
from tests.faults.matrix.invariants import Verdict, judge
from tests.faults.matrix.load import Load
from tests.faults.matrix.stage import FaultWorld, Stage
from tests.waiting import eventually

CLOCK_VARIABLE: Final = "FAULTS_CLOCK"
LEASE_S: Final = 1.5
CLOCKS: Final[Mapping[str, str]] = {
    "hour-ahead": "3600 0 0 0",
    "hour-behind": "-3600 0 0 0",
    "gains": "0 30 0 0",
    "loses": "0 -30 0 0",
    "jumps-ahead": "0 0 3600 4",
    "jumps-back": "0 0 -3600 4",
}
"""Ahead by, gain per second, jump, and when: in seconds. Five minutes of drift in ten seconds."""
EARLY_S: Final = 0.02
"""Two clocks, in milliseconds and rounded."""
LATE_S: Final = 20.0
"""Far more than anything due needs to start."""
DELAY_S: Final = 1.0
COUNTDOWN_S: Final = 0.6
PAUSE_S: Final = 2.5


@dataclass(slots=True)
class Times:
    """When each thing was asked for, by the ledger's clock: id -> nanoseconds."""

    delayed: dict[str, int] = field(default_factory=dict)
    paused: dict[str, int] = field(default_factory=dict)
    again: list[str] = field(default_factory=list)
    naps: dict[str, str] = field(default_factory=dict)
    expiring: list[str] = field(default_factory=list)
    lasting: list[str] = field(default_factory=list)
    robbed: dict[str, int] = field(default_factory=dict)


@family("T-F16", "workers whose wall clocks are wrong", share_s=90)
async def wrong_clocks(stage: Stage) -> list[Row]:
    """Each is wrong in its own way: nothing starts early, nobody alive is robbed, the dead are robbed in time."""
    world = await stage.world(stage.server().url)
    rounds = stage.times(full=6, share=1)
    times, complaints, kills, hired = Times(), [], 0, 0
    for number in range(rounds):
        crew = await _hire(world, stage.random.sample(list(CLOCKS), stage.times(full=len(CLOCKS), share=3)))
        hired += len(crew)
        async with Load(world, stage.random, per_s=15):
            await _ask(world, crew, times)
            victim, right = await _kill(world, crew, times)
            kills += 1
            await world.all_final([*times.delayed, *times.paused, *times.again, *times.naps.values()], timeout=60)
        for name, worker in crew.items():
            if name != victim:
                complaints += await _as_others_see_it(world, name, worker)
                worker.process.terminate()
                if code := await worker.exit_code(30):
                    complaints.append(f"{name} ended with {code}")
        if number < rounds - 1:  # the last one ends what is left
            right.process.terminate()
            await right.exit_code(30)
    verdict = await judge(world)
    verdict.violations += complaints
    late_s = await _examine(world, verdict, times)
    note = f"an hour off, ±30 s a second, jumps of an hour; due tasks at most {late_s:.1f} s late"
    return [stage.row(verdict, injected=f"{hired} workers with wrong clocks, {kills} killed", note=note)]


async def _hire(world: FaultWorld, names: Sequence[str]) -> dict[str, WorkerProcess]:
    crew = {
        name: world.fleet.spawn(
            name, queues=("default", "calm", name), env={CLOCK_VARIABLE: CLOCKS[name]}, app="tests.faults.skewed:app"
        )
        for name in names
    }
    for worker in crew.values():
        await world.ready(worker)
    return crew


async def _ask(world: FaultWorld, crew: Mapping[str, WorkerProcess], times: Times) -> None:
    """Ask for everything that is a matter of time."""
    for name in crew:
        times.naps[f"{name} {len(times.naps)}"] = await world.enqueue("nap", queue=name, seconds=3 * LEASE_S)
    for _ in range(12):
        asked_ns = time.monotonic_ns()
        times.delayed[await world.enqueue("quick", delay=DELAY_S)] = asked_ns
        times.again.append(await world.enqueue("again", countdown=COUNTDOWN_S))
    times.lasting += await world.enqueue_some(6, "quick", delay=0.5, expires=120.0)
    asked_ns = time.monotonic_ns()
    paused = await world.controller.pause("queue", ["calm"], for_s=PAUSE_S)
    assert paused.applied == len(crew), paused
    times.expiring += await world.enqueue_some(3, "quick", queue="calm", expires=PAUSE_S / 5)
    times.paused |= dict.fromkeys(await world.enqueue_some(6, "quick", queue="calm"), asked_ns)


async def _kill(world: FaultWorld, crew: Mapping[str, WorkerProcess], times: Times) -> tuple[str, WorkerProcess]:
    """Kill the one with most to take over; return its name, and who takes from the queue that was its own."""
    await world.started(*times.naps.values(), timeout=30)
    held = await world.enqueue_some(18, "nap", seconds=2.0)
    await world.started(*held, timeout=30)
    owners = {task_id: world.ledger.read().starts(task_id)[-1].pid for task_id in held}
    pid, _ = Counter(owners.values()).most_common(1)[0]
    (victim,) = [name for name, worker in crew.items() if worker.pid == pid]
    world.kill9(victim)
    killed_ns = time.monotonic_ns()
    account = world.ledger.read()
    times.robbed |= {one: killed_ns for one in held if owners[one] == pid and not account.of(one, "done")}
    right = world.fleet.spawn("right", queues=("default", "calm", victim))
    await world.ready(right)
    await world.all_final([*held, *times.naps.values()], timeout=60)
    return victim, right


async def _as_others_see_it(world: FaultWorld, name: str, worker: WorkerProcess) -> list[str]:
    """Heartbeats tell how far off the worker's own clock is (so it really was), and have its start by the broker's."""
    ahead_s, gains, jump_s, _ = (float(part) for part in CLOCKS[name].split())

    async def far_off() -> bool:
        return abs((await world.seen(worker)).heartbeat.clock_offset_ms) > 60_000

    await eventually(far_off, 30, what=f"the clock of {name} is wrong by more than a minute")
    beat = (await world.seen(worker)).heartbeat
    found = []
    if not gains and abs(beat.clock_offset_ms / 1000 + ahead_s + jump_s) > 5:
        found.append(f"{name} believes its clock to be off by {beat.clock_offset_ms / 1000:.0f} s")
    if not gains and not jump_s and abs(beat.started_at_ms / 1000 - time.time()) > 300:
        found.append(f"{name} says that it started at {beat.started_at_ms}")
    return found


async def _examine(world: FaultWorld, verdict: Verdict, times: Times) -> float:
    """Compare when things happened with when they were due; return the largest lateness in seconds."""
    account = verdict.account
    late_s = [0.0]
    for asked, due_s in ((times.delayed, DELAY_S), (times.paused, PAUSE_S)):
        for task_id, asked_ns in asked.items():
            late_s.append(_lateness(verdict, account, task_id, asked_ns, due_s))
    for task_id in times.again:
        first, second = account.starts(task_id)[:2]
        late_s.append((second.at_ns - first.at_ns) / 1e9 - COUNTDOWN_S)
        verdict.expect(late_s[-1] > -EARLY_S, f"{task_id} was tried again {-late_s[-1]:.2f} s too early")
    verdict.expect(max(late_s) < LATE_S, f"something due started {max(late_s):.1f} s late")
    await _states(world, verdict, times.expiring, TaskState.EXPIRED)
    await _states(world, verdict, [*times.lasting, *times.naps.values()], TaskState.SUCCEEDED)
    for what, task_id in times.naps.items():
        starts = account.starts(task_id)
        pids = {line.pid for line in starts}
        killed = any(pids & (fault.pids or set()) for fault in world.disturbances)
        verdict.expect(len(starts) == 1 or killed, f"the long task of {what} was taken from it while it lived")
    waits_s = [(account.starts(one)[-1].at_ns - at_ns) / 1e9 for one, at_ns in times.robbed.items()]
    if waits_s:
        verdict.recovery_s = max(waits_s)
        # A renewal is at most a beat old when its worker dies.
        verdict.expect(min(waits_s) > LEASE_S - 0.8, f"tasks of the dead were started again after {min(waits_s):.2f} s")
    return max(late_s)


def _lateness(verdict: Verdict, account: Account, task_id: str, asked_ns: int, due_s: float) -> float:
    start = account.starts(task_id)[0]
    late_s = (start.at_ns - asked_ns) / 1e9 - due_s
    verdict.expect(late_s > -EARLY_S, f"{task_id} started {-late_s:.2f} s before its time")
    return late_s


async def _states(world: FaultWorld, verdict: Verdict, ids: Sequence[str], wanted: TaskState) -> None:
    states = await asyncio.gather(*(world.state(task_id) for task_id in ids))
    wrong = [f"{task_id} is {state.value}" for task_id, state in zip(ids, states, strict=True) if state is not wanted]
    verdict.expect(not wrong, f"to be {wanted.value}: {wrong[:5]}")
