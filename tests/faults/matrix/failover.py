"""Servers that come back with less than they had: a replica that lagged behind, a file that was cut by a power failure.

Redis answers before its data is safe: what a loss of power or of the primary may cost is Redis' to say. Here it is
measured and named by id, nothing beyond it may be missing, and whatever state is left must run on.
"""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path
from typing import Final

from tests.faults.matrix.family import Row, family
from tests.faults.matrix.gauge import Gauge, off_loop
from tests.faults.matrix.invariants import judge
from tests.faults.matrix.load import Load
from tests.faults.matrix.stage import FaultWorld, Stage
from tests.servers import Server
from tests.waiting import eventually

ID: Final = re.compile(rb"task:([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})")
MOST_CUT: Final = 65_536


async def records(world: FaultWorld, ids: list[str]) -> set[str]:
    """Return those of these ids of which the server has a record."""
    found: set[str] = set()
    for first in range(0, len(ids), 500):
        rows = await world.broker.statuses(ids[first : first + 500], timeline=False)
        found |= {row.id for row in rows if row is not None}
    return found


# ---------------------------------------------------------------------------------------------------------- power cut


@family("T-F14", "power cut: the end of the append-only file is missing", share_s=120)
async def power_cut(stage: Stage) -> list[Row]:
    times = stage.times(full=20, share=2)
    server = stage.server(in_memory=True)
    world = await stage.world(server.url, workers=3)
    gauge = Gauge(world)
    gone: set[str] = set()
    touched: set[str] = set()
    beyond: set[str] = set()
    async with Load(world, stage.random) as load:
        for _ in range(times):
            await asyncio.sleep(stage.random.uniform(2.0, 2.6))
            async with world.disturbed():
                server.kill9()
                said = len(server.log())
                whole = _cut(server, stage.random.randrange(MOST_CUT))
                await off_loop(server.start)
                answers_ns = time.monotonic_ns()
                ids = _ids_in(whole[_kept(server, said) :])
                # Read now: an answer may have been on its way when the power went.
                acked = sorted(world.ledger.read().ids("acked") - gone)
                missing = set(acked) - await records(world, acked)
                touched |= ids
                beyond |= missing - ids
                gone |= missing
                await gauge.working(answers_ns)
    # A producer whose enqueue was under way may have enqueued the same id again: then it is there.
    gone -= await records(world, sorted(gone))
    verdict = await judge(world, forgiven=gone, rewound=touched, counts=False)
    verdict.expect(not beyond, f"missing, and not in what was cut off: {sorted(beyond)[:5]}")
    gauge.into(verdict)
    note = (
        f"{len(gone)} acknowledged tasks were cut off with the file, each known by id, and {len(touched)} were set "
        f"back; {load.unknown} enqueues of unknown outcome"
    )
    return [stage.row(verdict, injected=f"{times} cuts of up to 64 kB", note=note)]


def _file(server: Server) -> Path:
    """Return the file that the server appends to."""
    return max(server.folder.glob("appendonlydir/*.incr.aof"), key=lambda path: path.stat().st_mtime)


def _cut(server: Server, size: int) -> bytes:
    """Cut so many bytes off; return what the file held before."""
    path = _file(server)
    whole = path.read_bytes()
    with path.open("r+b") as file:
        file.truncate(max(0, len(whole) - size))
    return whole


def _kept(server: Server, said: int) -> int:
    """Return how many bytes the server could use, which has written its log from `said` on since the cut.

    Of a transaction that is not complete it cuts off the rest, so that a script happened as a whole or not at all.
    """
    offsets = re.findall(r"Truncating the AOF \S+ at offset (\d+)", server.log()[said:])
    return int(offsets[-1]) if offsets else _file(server).stat().st_size


def _ids_in(data: bytes) -> set[str]:
    return {match.decode() for match in ID.findall(data)}


# ----------------------------------------------------------------------------------------------------------- failover


class Pair:
    """A primary and its replica behind one address, a link in the file system that names the socket of either."""

    def __init__(self, stage: Stage) -> None:
        self.primary = stage.server(tcp=True)
        self.replica = stage.server(tcp=True)
        self._address = self.primary.folder / "now"
        self._address.symlink_to(self.primary.socket)
        self.url = f"unix://{self._address}"

    async def pair_up(self) -> None:
        """Let the replica follow, and return once it has everything."""
        if not self.replica.running:
            await off_loop(self.replica.start)
        self.replica.command("REPLICAOF", "127.0.0.1", self.primary.port)

        def follows() -> bool:
            with self.replica.client() as client:
                return str(client.info("replication").get("master_link_status")) == "up"

        await eventually(follows, 20.0, what="the replica follows")
        self.replicate()

    def replicate(self) -> int:
        """Return a moment: whatever was answered before it is on the replica."""
        begun = time.monotonic_ns()
        with self.primary.client(timeout_s=20.0) as client:
            client.set("marker", begun)
            assert client.execute_command("WAIT", 1, 15_000) == 1, "the replica does not confirm"
        return begun

    def repoint(self) -> None:
        """Let the address mean the other one."""
        self.primary, self.replica = self.replica, self.primary
        other = self._address.with_name("next")
        other.symlink_to(self.primary.socket)
        other.replace(self._address)


@family("T-F13", "failover", share_s=120)
async def switched(stage: Stage) -> list[Row]:
    parts = [failed_over, handed_over]
    chosen = parts if stage.scale == "full" else [stage.random.choice(parts)]
    return [row for part in chosen for row in await part(stage)]


async def failed_over(stage: Stage) -> list[Row]:
    times = stage.times(full=10, share=1)
    pair = Pair(stage)
    await pair.pair_up()
    world = await stage.world(pair.url, workers=3)
    gauge = Gauge(world)
    gone: set[str] = set()
    touched: set[str] = set()
    beyond: set[str] = set()
    async with Load(world, stage.random) as load:
        for number in range(times):
            await asyncio.sleep(stage.random.uniform(2.0, 2.6))
            async with world.disturbed():
                same_ns = pair.replicate()
                pair.replica.command("REPLICAOF", "127.0.0.1", 1)  # the link leads nowhere from here on
                await asyncio.sleep(stage.random.uniform(0.2, 0.8))
                pair.primary.kill9()
                pair.repoint()
                async with gauge.quiet(pair.primary):
                    await asyncio.sleep(stage.random.uniform(0.3, 1.2))  # it is a replica, and says so
                pair.primary.command("REPLICAOF", "NO", "ONE")
                answers_ns = time.monotonic_ns()
                account = world.ledger.read()
                acked = sorted(account.ids("acked") - gone)
                missing = set(acked) - await records(world, acked)
                window = {line.id for line in account.lines if line.at_ns >= same_ns}
                beyond |= missing - window
                gone |= missing
                touched |= window
                await gauge.working(answers_ns)
            if number + 1 < times:
                await pair.pair_up()
    gone -= await records(world, sorted(gone))
    verdict = await judge(world, forgiven=gone, rewound=touched, counts=False)
    verdict.expect(not beyond, f"missing, though the replica had it: {sorted(beyond)[:5]}")
    gauge.into(verdict)
    note = (
        f"{len(gone)} acknowledged tasks had not reached the replica, each known by id, and {len(touched)} were set "
        f"back; {load.unknown} enqueues of unknown outcome"
    )
    await world.close()
    check = "failover to a replica that lags behind"
    return [stage.row(verdict, check=check, injected=f"{times} failovers", note=note)]


async def handed_over(stage: Stage) -> list[Row]:
    """Nothing may be lost, and nobody may stay with the old one, which refuses to write for good."""
    times = stage.times(full=5, share=1)
    pair = Pair(stage)
    await pair.pair_up()
    world = await stage.world(pair.url, workers=3)
    gauge = Gauge(world)
    async with Load(world, stage.random) as load:
        for _ in range(times):
            await asyncio.sleep(stage.random.uniform(1.5, 2.0))
            async with world.disturbed():
                pair.primary.command("FAILOVER")
                await eventually(lambda: _role(pair.replica) == "master", 20.0, what="the replica is the primary")
                pair.repoint()
                await gauge.working()
            await eventually(lambda: _role(pair.replica) == "slave", 20.0, what="the old primary follows")
    verdict = await judge(world)
    gauge.into(verdict)
    await world.close()
    note = f"{load.unknown} enqueues of unknown outcome"
    check = "planned failover: the primary becomes a replica and keeps its connections"
    return [stage.row(verdict, check=check, injected=f"{times} failovers", note=note)]


def _role(server: Server) -> str:
    with server.client() as client:
        return str(client.info("replication")["role"])
