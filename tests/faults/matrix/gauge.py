"""What an outage costs while it lasts, and how long it goes on afterwards: processor time, log lines, recovery."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from stem.errors import BrokerError
from stem.messages.envelope import new_task_id
from tests.faults.fleet import WorkerProcess
from tests.servers import Server
from tests.waiting import eventually

if TYPE_CHECKING:
    from tests.faults.matrix.invariants import Verdict
    from tests.faults.matrix.stage import FaultWorld

BACK_S: Final = 5.0
"""After the server answers, until every worker has started a task again."""
GIVEN_UP_S: Final = 30.0
MOST_CPU: Final = 0.6
"""Of one core, while there is nothing to do but to wait for the server; a loop without a pause takes all of it."""
CPU_SLACK_S: Final = 0.3
"""What runs when the server goes is finished meanwhile, and stacks are unwound: a fixed cost of each outage."""
MOST_LINES_S: Final = 1.0
WINDOW_S: Final = 10.0
"""A rate is one over at least so long: the beginning, the reason and the end of one outage come close together."""
MOST_COMMANDS: Final = (20.0, 40.0)
"""Per worker, while the server refuses: at first, and a second: heartbeats, and six loops that ask again."""
_TICKS: Final = os.sysconf("SC_CLK_TCK")


class Gauge:
    """Watches the workers of one world through its outages."""

    def __init__(self, world: FaultWorld) -> None:
        self._world = world
        self._began = time.monotonic()
        self._lines_before = {worker.pid: len(lines(worker)) for worker in world.fleet}
        self.recovery_s = 0.0
        self.busiest = 0.0
        self.most_commands_s = 0.0
        self.complaints: list[str] = []

    @asynccontextmanager
    async def quiet(self, server: Server | None = None, *, settle_s: float = 0.0) -> AsyncIterator[None]:
        """Measure what workers use up while this block runs: nothing but waiting is to be done.

        Args:
            server: it answers before and after, and refuses in between: how often is counted too.
            settle_s: waited for before the block: what runs comes to its end.
        """
        await asyncio.sleep(settle_s)
        running = [worker for worker in self._world.fleet if worker.running]
        before, refused = {worker.pid: cpu_s(worker.pid) for worker in running}, _refused(server)
        begun = asyncio.get_running_loop().time()
        try:
            yield
        finally:
            seconds = max(0.001, asyncio.get_running_loop().time() - begun)
            for worker in running:
                used = cpu_s(worker.pid) - before[worker.pid]
                self.busiest = max(self.busiest, (used - CPU_SLACK_S) / seconds)
                if used > CPU_SLACK_S + MOST_CPU * seconds:
                    self.complaints.append(
                        f"{worker.name} used {used:.2f} s of processor in {seconds:.2f} s of waiting"
                    )
            if server is not None and running:
                each = (_refused(server) - refused) / len(running)
                self.most_commands_s = max(self.most_commands_s, each / seconds)
                if each > MOST_COMMANDS[0] + MOST_COMMANDS[1] * seconds:
                    self.complaints.append(f"{each:.0f} refused commands per worker in {seconds:.2f} s")

    @asynccontextmanager
    async def knocking(self, server: Server) -> AsyncIterator[None]:
        """Stand at the address of a server that is away, close each connection, and count those of each worker.

        Processor time alone says little on a machine that is busy anyway.
        """
        knocks: Counter[int] = Counter()

        async def close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            peer = writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            knocks[struct.unpack("3i", peer)[0]] += 1
            writer.close()

        begun = time.monotonic()
        async with await asyncio.start_unix_server(close, server.socket):
            yield
        seconds = time.monotonic() - begun
        for worker in self._world.fleet:
            if knocks[worker.pid] > MOST_COMMANDS[0] + MOST_COMMANDS[1] * seconds:
                self.complaints.append(f"{worker.name} tried to connect {knocks[worker.pid]} times in {seconds:.2f} s")

    async def working(self, since_ns: int | None = None) -> float:
        """Wait until every worker has started a task since then; return after how many seconds the last one had.

        Canaries see to it that there is something to start for each of them.
        """
        world = self._world
        since = time.monotonic_ns() if since_ns is None else since_ns
        waiting = {worker.pid for worker in world.fleet if worker.running}
        last = 0

        def all_started() -> bool:
            nonlocal last
            for line in world.ledger.read().between(since, 2**63):
                if line.pid in waiting:
                    waiting.discard(line.pid)
                    last = max(last, line.at_ns)
            return not waiting

        canaries = asyncio.create_task(self._canaries(len(waiting)))
        try:
            await eventually(all_started, GIVEN_UP_S, what=f"{sorted(waiting)} have started a task")
        except AssertionError as error:
            self.complaints.append(str(error))
            last = time.monotonic_ns()
        finally:
            canaries.cancel()
            await asyncio.gather(canaries, return_exceptions=True)
        seconds = max(0.0, (last - since) / 1e9)
        self.recovery_s = max(self.recovery_s, seconds)
        return seconds

    async def _canaries(self, workers: int) -> None:
        """As many short tasks as all workers have slots, again and again."""
        while True:
            for _ in range(8 * workers):
                await enqueue(self._world, "nap", seconds=0.2)
            await asyncio.sleep(0.3)

    def into(self, verdict: Verdict, *, recovery: bool = True) -> None:
        """Judge what was measured and write it into the verdict."""
        loudest = self.lines_per_s()
        if recovery:
            verdict.recovery_s = max(verdict.recovery_s or 0.0, self.recovery_s)
            verdict.expect(
                self.recovery_s <= BACK_S,
                f"a worker began to work {self.recovery_s:.1f} s after the server answered, allowed are {BACK_S:.0f}",
            )
        verdict.violations += self.complaints
        verdict.expect(loudest < MOST_LINES_S, f"{loudest:.2f} log lines/s of one worker; fewer than 1 are allowed")
        verdict.notes.append(f"{loudest:.2f} log lines/s")
        if self.busiest > 0:
            verdict.notes.append(f"at most {self.busiest:.0%} of a core while waiting")
        if self.most_commands_s:
            verdict.notes.append(f"at most {self.most_commands_s:.0f} refused commands/s a worker")
        for worker in self._world.fleet:
            verdict.expect(not worker.tracebacks(), f"{worker.name} wrote a traceback: {worker.tracebacks()[:1]}")

    def lines_per_s(self) -> float:
        """Return how much the loudest worker wrote, without the lines that tell of one task each."""
        seconds = max(WINDOW_S, time.monotonic() - self._began)
        return max(
            (len(lines(worker)) - self._lines_before.get(worker.pid, 0)) / seconds for worker in self._world.fleet
        )


def lines(worker: WorkerProcess) -> list[dict[str, Any]]:
    """Return the lines of a worker's log that do not belong to one task each; what is no JSON has an event of ''."""
    found = []
    for text in worker.log().splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            line = {"event": "", "text": text}
        if not str(line.get("event", "")).startswith("task."):
            found.append(line)
    return found


def said(world: FaultWorld, event: str) -> list[dict[str, Any]]:
    """Return every line of an event that any worker wrote."""
    return [line for worker in world.fleet for line in lines(worker) if line.get("event") == event]


async def enqueue(world: FaultWorld, name: str, **args: Any) -> str | None:
    """Enqueue one task and write what came of it into the ledger; None if nobody knows, or it was refused."""
    task_id = new_task_id()
    world.ledger.write("tried", task_id)
    try:
        await world.enqueue(name, task_id=task_id, **args)
    except BrokerError:
        return None
    return task_id


def cpu_s(pid: int) -> float:
    """Return the processor seconds of a process so far, 0 once it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _refused(server: Server | None) -> int:
    """Return how many commands and connections the server has answered with an error so far."""
    if server is None:
        return 0
    with server.client() as client:
        stats: dict[str, int] = client.info("stats")
        return stats["total_error_replies"]


async def off_loop(function: Callable[[], object]) -> None:
    """Run what blocks (starting a server) beside the loop, so that the producers go on."""
    await asyncio.to_thread(function)
